"""Questions in parts: sentences or halves, put together again as they were; answers that came back as they went are left out."""

from mtllm_ds.transfer_sets.sdrrl.translations import question_parts, translate_answers
from mtllm_ds.transfer_sets.translation.translator import Translator
from tests.transfer_sets.translation.test_kept import Shouting

QUESTIONS = [
    "Open it. Then close it.",
    "What does the function `SUM(A1: A3)` do for a table?",
    "Read this:\n```\nx = 1. y = 2.\n```\nWhat is it?",
    "Please explain how one opens a file",
]


def test_parts_are_the_question():
    for question in QUESTIONS:
        parts = question_parts(question)
        assert len(parts) >= 2
        assert "".join(gap + text for gap, text in parts) == question
    assert ("", "What does the function") in question_parts(QUESTIONS[1])  # not inside the code
    assert question_parts("Open the file.") == question_parts("") == question_parts("`a` `b` `c` `d` `e` `f` `g`") == []


def test_rows_carry_translations_and_parts():
    answers = [
        {"id": str(number), "prompt": question, "response": "It is 3."} for number, question in enumerate(QUESTIONS)
    ]
    answers.append({"id": "9", "prompt": "OPEN IT", "response": "as it was"})
    answers.append({"id": "10", "prompt": "which?", "response": "THE SAME"})
    answers.append({"id": "11", "prompt": "which?", "response": "3"})
    translator = Translator(Shouting(), keep_code=True)
    rows, counts = translate_answers(answers, translator, "spa_Latn", {"translator": "x"}, lambda done, total: None)
    assert [row["id"] for row in rows] == [row["id"] for row in answers]
    assert rows[1]["prompt"] == "WHAT DOES THE FUNCTION `SUM(A1: A3)` DO FOR A TABLE?"
    assert rows[0]["parts"] == [["", "Open it.", "OPEN IT."], [" ", "Then close it.", "THEN CLOSE IT."]]
    assert rows[3]["parts"][1][2][0].islower()  # a half of a sentence begins as it did
    assert [row["id"] for row in rows if "rejected" in row] == ["9", "10"]
    assert counts == {"kept": 5, "untranslated": 2}
