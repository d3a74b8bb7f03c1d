"""What users hand to `MTLLM`: refused in one line, or read as it is meant."""

import pytest
import torch

from mtllm_ds import MTLLM
from mtllm_ds.errors import UserError
from tests.fixtures.exports import make_export

TEXTS = ["The dialog sets the options.", "Select the cells."]


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    task = {"name": "topics", "type": "classification", "labels": ["a", "b"]}
    return make_export(tmp_path_factory.mktemp("hostile"), task)


@pytest.fixture(scope="module")
def model(export):
    return MTLLM.from_pretrained(export)


BAD = {
    "half a character": ("smile \ud83d cut", "half a character"),
    "None": (None, "not a string but NoneType"),
    "bytes": (b"cells", "not a string but bytes"),
    "NaN, as of an empty cell of a table": (float("nan"), "not a string but float nan"),
    "a number": (7, "not a string but int 7"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("call", ["encode", "encode_with_llm", "encode_with_encoder", "encode_both", "classify"])
def test_what_is_no_text_is_told_by_its_number(model, name, call):
    bad, words = BAD[name]
    languages = () if call == "encode_with_llm" else ("eng_Latn",)
    with pytest.raises(UserError, match=rf"^texts\[1\]: .*{words}") as raised:
        getattr(model, call)([TEXTS[0], bad], *languages)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, True, None])
@pytest.mark.parametrize("texts", [TEXTS, []])
def test_batch_sizes_that_are_none(model, batch_size, texts):
    with pytest.raises(UserError, match=r"^batch_size=.*not a whole number from 1 up"):
        model.encode(texts, "eng_Latn", batch_size=batch_size)


def test_generators_and_other_iterables_are_read(model):
    truth = model.encode(TEXTS, "eng_Latn")
    for given in ((text for text in TEXTS), tuple(TEXTS), dict.fromkeys(TEXTS)):
        assert torch.equal(model.encode(given, "eng_Latn"), truth)
    assert torch.equal(model.encode(TEXTS, (code for code in ("eng_Latn", "eng_Latn"))), truth)
    assert model.encode([], "eng_Latn").shape == (0, truth.shape[1])


@pytest.mark.parametrize("texts", ["one text", b"bytes"])
def test_one_text_is_no_list(model, texts):
    with pytest.raises(UserError, match="one string, expected a list of texts"):
        model.encode(texts, "eng_Latn")


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "no such", "meta:x"])
def test_devices_that_are_not_there(export, device):
    with pytest.raises(UserError, match=rf"^device={device}: cannot be used") as raised:
        MTLLM.from_pretrained(export, device=device)
    assert "\n" not in str(raised.value)
