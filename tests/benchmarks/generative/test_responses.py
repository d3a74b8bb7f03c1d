"""Records of the generative benchmark: both sides read the same English; of a translation the teacher reads the original."""

from benchmarks.generative.responses import asked, dialogues


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
