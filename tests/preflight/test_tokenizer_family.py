"""The family that the shards were made with is that of the run, and is remembered beside the base models."""

from mtllm_ds.data.text.tokenization import TokenizerSpec
from mtllm_ds.data.writing.builder import build_shards
from mtllm_ds.data.writing.settings import ShardSettings
from mtllm_ds.data.writing.sources import InputFile
from mtllm_ds.preflight.plan import check_run
from tests.fixtures.runs import make_run, settings_of, write_text


def test_a_family_told_to_prepare_is_that_of_the_run(tmp_path):
    recipe = make_run(tmp_path)
    plain = check_run(settings_of(recipe, data__validation="null"), 1)
    assert plain.bases["encoder"]["tokenizer_family"] == "nllb"
    told = ShardSettings(
        inputs=(InputFile(path=str(write_text(tmp_path / "t.jsonl", 20, 1)), language="eng_Latn"),),
        encoder=TokenizerSpec(name=str(tmp_path / "mt"), side="encoder", max_length=64, family="xlm-r"),
        llm=TokenizerSpec(name=str(tmp_path / "llm"), side="llm", max_length=64),
        block_samples=8,
    )
    build_shards(told, tmp_path / "told", num_workers=1)
    plan = check_run(settings_of(recipe, data__train=str(tmp_path / "told"), data__validation="null"), 1)
    assert {side: tokenizer.family for side, tokenizer in plan.tokenizers.items()} == {
        "encoder": "xlm-r",
        "llm": "decoder",
    }
    assert plan.bases["encoder"]["tokenizer_family"] == "xlm-r"
