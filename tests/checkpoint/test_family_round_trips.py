"""Run, export, load: the same vectors for every family, also where the export's tokenizer tells nothing of its family."""

import json

import pytest
import torch

from mtllm_ds import MTLLM
from mtllm_ds.checkpoint.export import read_export
from mtllm_ds.checkpoint.model import trained_from_run
from mtllm_ds.data.text.tokenization import TokenizerSpec, load_text_tokenizer
from mtllm_ds.models.build import load_reader
from mtllm_ds.models.pooling import pool
from tests.fixtures.exports import make_export
from tests.fixtures.tokenizers import save_llama_tokenizer, save_templated_tokenizer
from tests.models.encoder_families import ENCODERS
from tests.models.families import LLMS

# Those whose loading differs: multimodal, recurrent, fused products, alibi, other widths, an encoder.
TEXTS = ["Der Dialog legt fest", "the formula", "Wählen Sie"]
TASK = {"name": "topics", "type": "classification", "labels": ["a", "b"]}
LLM_TITLES = ("Llama 2, 3", "Gemma 3", "Qwen 3.5", "GPT-2", "BLOOM", "OPT", "ModernBERT")


def vectors_of_run(run, side, family="auto"):
    """Vectors of the checkpoint itself, its base models and their tokenizers where they were."""
    trained = trained_from_run(run)
    reader = load_reader(trained.model, trained.weights, torch.device("cpu"), torch.float32)
    name = getattr(trained.model, side).name
    tokenizer = load_text_tokenizer(TokenizerSpec(name=name, side=side, max_length=64, family=family))
    with torch.no_grad():
        found = []
        for text in TEXTS:
            ids = torch.tensor([tokenizer([text], "deu_Latn")])
            found.append(pool(reader.states(ids, torch.ones_like(ids)), torch.ones_like(ids), "mean")[0])
    return torch.stack(found)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    save_llama_tokenizer(folder)
    return LLMS["Llama 2, 3"].with_vocabulary(512).save(folder)


@pytest.mark.parametrize("title", ENCODERS)
def test_every_encoder_comes_back(tmp_path, llama, title):
    family = ENCODERS[title]
    export = make_export(tmp_path, bases={"encoder": family.save(tmp_path / "mt"), "llm": llama})
    assert read_export(export).bases["encoder"]["tokenizer_family"] == family.tokenizer_family
    vectors = MTLLM.from_pretrained(export).encode(TEXTS, "deu_Latn")
    torch.testing.assert_close(vectors, vectors_of_run(tmp_path / "run", "encoder"), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("title", LLM_TITLES)
def test_llms_come_back(tmp_path, title):
    family, folder = LLMS[title].with_vocabulary(512), tmp_path / "llm"
    if title == "ModernBERT":
        save_templated_tokenizer(folder, "[CLS]", "[SEP]")
    else:
        save_llama_tokenizer(folder)
    export = make_export(tmp_path, TASK, "llm", bases={"llm": family.save(folder)}, bidirectional=not family.refused)
    vectors = MTLLM.from_pretrained(export).encode(TEXTS, "deu_Latn")
    torch.testing.assert_close(vectors, vectors_of_run(tmp_path / "run", "llm"), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("title", ["NLLB", "T5, MADLAD", "XLM-R, multilingual E5", "BERT, LaBSE"])
def test_a_tokenizer_of_a_generic_class_comes_back(tmp_path, llama, title):
    family, folder = ENCODERS[title], tmp_path / "mt"
    family.save(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    export = make_export(tmp_path, bases={"encoder": folder, "llm": llama})
    vectors = MTLLM.from_pretrained(export).encode(TEXTS, "deu_Latn")
    truth = vectors_of_run(tmp_path / "run", "encoder", family.tokenizer_family)
    torch.testing.assert_close(vectors, truth, atol=1e-5, rtol=1e-4)


def test_a_family_that_was_told_at_the_start_is_remembered(tmp_path, llama):
    folder = ENCODERS["NLLB"].save(tmp_path / "mt")
    export = make_export(tmp_path, bases={"encoder": folder, "llm": llama}, tokenizer_family="xlm-r")
    model = MTLLM.from_pretrained(export)
    assert model.ids(["Dialog"], "deu_Latn")[0] == 0  # <s>, no tag
    truth = vectors_of_run(tmp_path / "run", "encoder", "xlm-r")
    torch.testing.assert_close(model.encode(TEXTS, "deu_Latn"), truth, atol=1e-5, rtol=1e-4)
