"""Base models that moved: the same weights are the same model on the hub and in a folder, others are refused."""

import shutil
import warnings

import pytest
import torch

from mtllm_ds import MTLLM
from mtllm_ds.config.sections import ModelSettings
from mtllm_ds.errors import UserError
from mtllm_ds.models.build import located
from mtllm_ds.models.loading import stored_weights
from tests.fixtures.exports import make_export
from tests.fixtures.hub import hub_at, push
from tests.fixtures.models import save_llama

FIRST, LATER = "a" * 40, "b" * 40
NAME = "someone/llm"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folders `llm` and `other` of the same shapes, and a hub where `llm` was pushed first and then `other`."""
    folder = tmp_path_factory.mktemp("located")
    for commit, llm in ((FIRST, save_llama(folder / "llm")), (LATER, save_llama(folder / "other", seed=9))):
        push(folder / "hub", NAME, llm, commit)
    with hub_at(folder / "hub"), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield folder


def settings(name, revision=None):
    return ModelSettings(reader="llm", encoder={"name": "someone/never_read"}, llm={"name": name, "revision": revision})


def of_hub(weights):
    """What a run on the hub's first commit remembers."""
    return {"llm": {"name": NAME, "revision": FIRST, "fingerprint": f"hub:{FIRST}", "weights": weights}}


def test_a_model_of_the_hub_is_known_again_in_a_folder(place):
    bases = of_hub(stored_weights(NAME, FIRST))
    found = located(settings(NAME, FIRST), bases, "export x", {"llm": str(place / "llm")})
    assert (found.llm.name, found.llm.revision) == (str(place / "llm"), None)
    with pytest.raises(UserError, match=r"export x: llm .*other: not the model it was trained on"):
        located(settings(NAME, FIRST), bases, "export x", {"llm": str(place / "other")})


def test_a_model_of_a_folder_is_known_again_on_the_hub(place):
    for name, fits in (("llm", False), ("other", True)):  # the newest commit is `other`
        weights = stored_weights(str(place / name), None)
        bases = {"llm": {"name": str(place / name), "revision": None, "fingerprint": weights}}
        if fits:
            assert located(settings(str(place / name)), bases, "export x", {"llm": NAME}).llm.name == NAME
        else:
            with pytest.raises(UserError, match=": not the model it was trained on"):
                located(settings(str(place / name)), bases, "export x", {"llm": NAME})


def test_a_mirror_is_the_same_model_at_another_commit(place):
    push(place / "hub", "mirror/llm", place / "llm", "c" * 40)
    bases = of_hub(stored_weights(NAME, FIRST))
    assert located(settings(NAME, FIRST), bases, "export x", {"llm": "mirror/llm"}).llm.name == "mirror/llm"
    with pytest.raises(UserError, match=": not the model"):
        located(settings(NAME, FIRST), of_hub(None), "export x", {"llm": "mirror/llm"})


def test_the_commit_is_kept_where_the_name_stays(place):
    for places in ({}, {"llm": NAME}):
        assert located(settings(NAME, FIRST), of_hub(None), "export x", places).llm.revision == FIRST


def test_what_cannot_be_compared_is_told_in_one_line(place):
    with pytest.warns(UserWarning, match=r"llm .*other: cannot be compared with the model it was trained on") as caught:
        located(settings(NAME, FIRST), of_hub(None), "export x", {"llm": str(place / "other")})
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)


def test_a_name_that_is_nowhere_is_one_line(place):
    with pytest.raises(UserError, match=r"someone/nothing: cannot be found"):
        located(settings(NAME, FIRST), of_hub(None), "export x", {"llm": "someone/nothing"})


def test_a_side_that_is_not_read_may_be_missing(tmp_path):
    task = {"name": "topics", "type": "classification", "labels": ["a", "b"]}
    export = make_export(tmp_path, task, "llm")
    shutil.rmtree(tmp_path / "mt")
    vectors = MTLLM.from_pretrained(export).encode(["Select the cells."], "eng_Latn")
    assert torch.isfinite(vectors).all()
    (tmp_path / "llm" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="holds no weights in safetensors"):
        MTLLM.from_pretrained(export)
