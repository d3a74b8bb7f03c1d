"""Held-out dialogues: what each side reads, what is asked in English, and whose prompt is another's."""

import json

import pytest

from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.generation.heldout import as_chat, digest, others, read_heldout

GERMAN = {
    "id": "a",
    "language": "deu_Latn",
    "prompt": "Sichern",
    "teacher_prompt": "Save",
    "response": "Ja.",
    "group": "g",
}
FRENCH = {"id": "a", "language": "fra_Latn", "prompt": "Enregistrer", "teacher_prompt": "Save"}
OTHER = {"id": "b", "language": "fra_Latn", "prompt": "Fermer", "teacher_prompt": "Close", "bare_prompt": "Do it:"}


def written(folder, *rows, name="heldout.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_english_is_asked_with_the_teachers_prompts_each_once(tmp_path):
    found = read_heldout([(None, written(tmp_path, GERMAN, FRENCH, OTHER))])
    assert list(found) == ["eng_Latn", "deu_Latn", "fra_Latn"]
    assert [(item.id, item.prompt, item.teacher_prompt) for item in found["eng_Latn"]] == [
        ("a", "Save", "Save"),
        ("b", "Close", "Close"),
    ]
    assert {item.response for item in found["eng_Latn"]} == {None}  # the other is in German
    (german,) = found["deu_Latn"]
    assert (german.group, german.response, german.bare_prompt) == ("g", "Ja.", None)
    assert found["fra_Latn"][1].bare_prompt == "Do it:"
    assert found["fra_Latn"][1].group == "b"
    assert len(read_heldout([(None, written(tmp_path, GERMAN, FRENCH, OTHER))], limit=1)["fra_Latn"]) == 1


def test_english_of_the_file_is_kept_and_a_file_may_name_its_language(tmp_path):
    english = {"id": "x", "prompt": "Open", "response": "Yes."}
    place = written(tmp_path, english, name="eng.jsonl")
    found = read_heldout([(None, written(tmp_path, GERMAN)), ("eng_Latn", place)])
    assert [(item.prompt, item.response) for item in found["eng_Latn"]] == [("Open", "Yes.")]


def test_a_text_may_be_what_a_user_says(tmp_path):
    (item,) = read_heldout([(None, written(tmp_path, OTHER))])["fra_Latn"]
    said = as_chat(item)
    assert said.prompt == [{"role": "user", "content": "Fermer"}]
    assert said.bare_prompt == [{"role": "user", "content": "Do it:"}]
    assert digest([said]) != digest([item])


def test_another_prompt_is_of_another_group():
    groups = ["a", "a", "b", "a", "c", "a"]
    assert all(groups[place] != groups[other] for place, other in enumerate(others(groups)))
    assert others(["a", "b", "c", "d"]) == [2, 3, 0, 1]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"prompt": "x"}], "line 1: names no language; add it, or give the file as CODE=FILE"),
        ([GERMAN, GERMAN], "line 2: the id 'a' stands at .*line 1 too"),
        ([GERMAN | {"teacher_messages": []}], "line 1: holds 2 of 'teacher_prompt' and 'teacher_messages'"),
        ([GERMAN | {"response": 3}], "line 1: 'response' is no text"),
        ([GERMAN | {"reference": ["x"]}], "line 1: 'reference' is no text"),
    ],
)
def test_mistakes_are_one_line(tmp_path, rows, said):
    with pytest.raises(UserError, match=said):
        read_heldout([(None, written(tmp_path, *rows))])
