"""A language model that trained with its head leaves as a model of transformers: the very same figures and logits."""

import pytest
import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from mtllm_ds import MTLLM, atomic
from mtllm_ds.checkpoint.model import trained_from_run
from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.commands import export
from mtllm_ds.data.stream.stream import EvalStream
from mtllm_ds.data.text.tokenization import TokenizerSpec, load_text_tokenizer
from mtllm_ds.data.text.vocabulary import vocabulary_of
from mtllm_ds.errors import UserError
from mtllm_ds.objectives.asked_tokens import Draw, MaskedTokens, Masking, NextTokens
from mtllm_ds.training.runs import run_seeds
from mtllm_ds.transfer_sets.language_model import write_language_model
from tests.distributed.ranks import ranks
from tests.fixtures.masked_runs import SOURCES, make_masked_run
from tests.fixtures.models import save_masked_lm
from tests.fixtures.runs import settings_of


def train(recipe, overrides):
    """On a rank of a pool."""
    return run_seeds(settings_of(recipe, **overrides), join_cluster(), False)


def trained_run(recipe, name, **overrides):
    overrides = {"objective__teachers_on_device": 1, **overrides, "run__output_dir": str(recipe.parent / name)}
    assert ranks(1).run(train, recipe, overrides) == [0]
    return recipe.parent / name


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    recipe = make_masked_run(tmp_path_factory.mktemp("language_model"))
    for name, ties in (("tied", True), ("untied", False)):
        save_masked_lm(recipe.parent / name, seed=8, tokenizer=recipe.parent / "tokenizer", tie_word_embeddings=ties)
    return recipe


def nll_of(folder, shards):
    """Validation figures as transformers' own model of a folder tells them."""
    architecture = AutoConfig.from_pretrained(folder).architectures[0]
    is_causal = architecture.endswith("CausalLM")
    model = (AutoModelForCausalLM if is_causal else AutoModelForMaskedLM).from_pretrained(folder).eval()
    tokenizer = load_text_tokenizer(TokenizerSpec(name=str(folder), side="llm"))
    masks, total, count = MaskedTokens(vocabulary_of(tokenizer), Masking()), 0.0, 0
    for batch in EvalStream(str(shards), batch_size=5):
        shown, masked = (NextTokens() if is_causal else masks).shown(batch, Draw(None, 0.3))
        with torch.no_grad():
            logits = model(input_ids=shown, attention_mask=batch.llm_mask).logits
        logits = logits[masked.roll(-1, 1) if is_causal else masked]
        total += functional.cross_entropy(logits, batch.llm_ids[masked], reduction="sum").item()
        count += int(masked.sum())
    return total / count


PRETRAINED = {"model__llm__from_scratch": "false", "model__llm__config": "null"}
CASES = {
    "scratch": {},
    "scratch_untied": {"model__llm__config__tie_word_embeddings": "false"},
    "modernbert": {"model__llm__config__model_type": "modernbert"},
    "eurobert": {"model__llm__config__model_type": "eurobert", "model__llm__config__num_key_value_heads": 2},
    "xlm_roberta": {"model__llm__config__model_type": "xlm-roberta"},
    "causal": {
        "model__llm__config__model_type": "llama",
        "model__llm__bidirectional": "false",
        "objective__teacher_of": "null",
        "objective__temperature": 1.0,
        "objective__mask_share": 0.15,
        "objective__teachers_on_device": "null",
    },
    "all": {**PRETRAINED, "model__llm__name": "{folder}/untied"},
    "lora": {**PRETRAINED, "model__llm__name": "{folder}/tied", "model__trainable": "lora", "model__lora__rank": 2},
    "named": {**PRETRAINED, "model__llm__name": "{folder}/tied", "model__trainable": "[encoder.layer.1]"},
}


@pytest.mark.parametrize("case", CASES)
def test_transformers_tells_the_figures_that_the_run_logged(recipe, tmp_path, case, capsys):
    chosen = {key: str(value).replace("{folder}", str(recipe.parent)) for key, value in CASES[case].items()}
    run = trained_run(recipe, case, **chosen)
    folder = tmp_path / "model"
    assert export.main([str(run), str(folder)]) == 0
    assert f"to {folder}" in capsys.readouterr().out
    logged = trained_from_run(run).metrics["eval_nll"]
    assert nll_of(folder, recipe.parent / "validation") == pytest.approx(logged, rel=1e-5)
    assert AutoTokenizer.from_pretrained(folder)("the cells")["input_ids"]


def test_the_card_names_what_it_learned_from(recipe, tmp_path):
    trained = trained_from_run(trained_run(recipe, "for_card"))
    write_language_model(trained, tmp_path / "model", torch.bfloat16)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "Trained from scratch by `balanced_teachers` for 4 steps, with 3 teachers." in card
    assert all(f"it learned {code} from `{recipe.parent / f'teacher_{code}'}`" in card for code in SOURCES)
    assert "BertForMaskedLM.from_pretrained" in card
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "model").dtype == torch.bfloat16
    before = atomic.sha256_file(tmp_path / "model" / "model.safetensors")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"old")
    write_language_model(trained, tmp_path / "model", torch.bfloat16)  # an older export gives way
    assert atomic.sha256_file(tmp_path / "model" / "model.safetensors") == before
    (tmp_path / "model" / "mtllm_ds.json").unlink()
    with pytest.raises(UserError, match="exists and was not written by `mtllm-ds export`; choose another folder"):
        write_language_model(trained, tmp_path / "model")
    with pytest.raises(UserError, match="not of an export but of a model of transformers, which loads that itself"):
        MTLLM.from_pretrained(tmp_path / "model")
