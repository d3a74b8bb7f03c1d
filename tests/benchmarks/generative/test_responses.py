"""Records of the generative benchmark: both sides read the same English; of a translation the teacher reads the original."""

from benchmarks.generative.responses import asked, dialogues, heldout_dialogues


def test_the_teacher_reads_the_english_original():
    prompts = [
        {"id": "a", "language": "eng_Latn", "prompt": "Save it.", "english": "Save it."},
        {"id": "b", "language": "deu_Latn", "prompt": "Sichern.", "english": "Save it."},
        {"id": "c", "language": "eng_Latn", "prompt": "Left out.", "english": "Left out."},
    ]
    english, german = dialogues(prompts, [{"id": "a", "response": "x"}, {"id": "b", "response": "y"}])
    assert english == {"id": "a", "language": "eng_Latn", "messages": asked("Save it."), "response": "x"}
    assert german["messages"][0]["content"].endswith("Sichern.")
    assert german["teacher_messages"] == asked("Save it.")
    assert german["language"] == "deu_Latn"


def test_held_out_prompts_share_the_answer_to_their_original():
    rows = [
        {"id": "a", "group": "g", "language": code, "prompt": text, "english": "Save it."}
        for code, text in (("eng_Latn", "Save it."), ("deu_Latn", "Sichern."))
    ]
    others = [{"id": "b", "group": "h", "language": "deu_Latn", "prompt": "Kurz.", "english": "Short."}]
    english, german = heldout_dialogues(rows + others, [{"id": "a", "response": "x"}])
    assert english["response"] == german["response"] == "x"
    assert (german["messages"], german["teacher_messages"]) == (asked("Sichern."), asked("Save it."))
    assert german["bare_messages"] == asked("")
    assert german["group"] == "g"
