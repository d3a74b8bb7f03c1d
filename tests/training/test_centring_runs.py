"""Centring in a run: means equal a plain sum over all tokens, on any ranks, from text or a file; they travel in the export."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mtllm_ds import MTLLM
from mtllm_ds.checkpoint.export import export_run
from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.config.sections import EncoderSettings
from mtllm_ds.data.stream.stream import EvalStream
from mtllm_ds.data.text.tokenization import TokenizerSpec
from mtllm_ds.data.writing.builder import build_shards
from mtllm_ds.data.writing.settings import ShardSettings
from mtllm_ds.data.writing.sources import InputFile
from mtllm_ds.errors import UserError
from mtllm_ds.models.encoders import load_encoder
from mtllm_ds.training.assemble import run_training
from tests.distributed.ranks import ranks
from tests.fixtures.runs import losses_of, make_run, settings_of
from tests.fixtures.tokenizers import TEXT


def train(recipe, resume, overrides):
    """On a rank of a pool."""
    return run_training(settings_of(recipe, **overrides), join_cluster(), resume)


def run_on(world_size, recipe, name, resume=False, **overrides):
    overrides |= {"run__output_dir": str(recipe.parent / name), "run__max_steps": overrides.get("run__max_steps", 1)}
    assert ranks(world_size).run(train, recipe, resume, overrides) == [0] * world_size
    return settings_of(recipe, **overrides)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("centring")
    recipe = make_run(folder)
    inputs = []
    for code, lines in (("eng_Latn", TEXT[:3]), ("deu_Latn", TEXT[3:5])):
        path = folder / f"{code}.jsonl"
        path.write_text("".join(json.dumps({"text": f"{line} {i}"}) + "\n" for i, line in enumerate(lines * 3)))
        inputs.append(InputFile(path=str(path), language=code))
    specs = {
        side: TokenizerSpec(name=str(folder / name), side=side, max_length=64)
        for side, name in (("encoder", "mt"), ("llm", "llm"))
    }
    build_shards(ShardSettings(inputs=tuple(inputs), **specs, block_samples=4), folder / "text", num_workers=1)
    return recipe


@pytest.fixture(scope="module")
def means(recipe):
    """Code -> float64 mean state, by a plain loop."""
    encoder = load_encoder(EncoderSettings(name=str(recipe.parent / "mt")), "sdpa", torch.float32)
    stream = EvalStream(recipe.parent / "text", batch_size=1)
    states = {code: [] for code in stream.manifest.languages}
    for batch in stream:
        code = stream.manifest.languages[int(batch.languages[0])]
        states[code].append(encoder(batch.encoder_ids, batch.encoder_mask)[0].double())
    return {code: torch.cat(rows).mean(0) for code, rows in states.items()}


@pytest.mark.parametrize("world_size", [1, 2])
def test_means_of_text_travel_in_the_export(recipe, means, world_size):
    folder, name = recipe.parent, f"text{world_size}"
    plain = run_on(1, recipe, f"plain{world_size}")
    extra = {"model__connector__centring": "language", "model__connector__centring_text": str(folder / "text")}
    settings = run_on(world_size, recipe, name, **extra)
    # English is centred to itself: training does not change.
    assert losses_of(settings)[1] == pytest.approx(losses_of(plain)[1], rel=1e-5)
    export_run(folder / name, folder / f"{name}_export")
    export_run(folder / f"plain{world_size}", folder / f"plain{world_size}_export")
    found = load_file(folder / f"{name}_export" / "centring.safetensors")["means"]
    torch.testing.assert_close(
        found.double(), torch.stack([means["eng_Latn"], means["deu_Latn"]]), atol=1e-5, rtol=1e-5
    )

    centred, other = (MTLLM.from_pretrained(folder / f"{n}{world_size}_export") for n in ("text", "plain"))
    torch.testing.assert_close(
        centred.encode(["x y"], "eng_Latn"), other.encode(["x y"], "eng_Latn"), atol=1e-4, rtol=1e-4
    )
    ids = torch.tensor([other.ids(("x y",), "deu_Latn")])
    states = other.reader.encoder(ids, torch.ones_like(ids)) + (means["eng_Latn"] - means["deu_Latn"]).float()
    llm = other.reader.llm.base_model.model
    truth = llm(inputs_embeds=other.reader.connector(states)).last_hidden_state.mean(1)
    torch.testing.assert_close(centred.encode(["x y"], "deu_Latn"), truth, atol=1e-3, rtol=1e-3)
    with pytest.raises(UserError, match=r"lang=fra_Latn: .* has no mean of it"):
        centred.encode(["x"], "fra_Latn")


def test_means_of_a_file_and_of_a_start_are_taken_as_they_are(recipe, means):
    folder = recipe.parent
    path = folder / "means.json"
    path.write_text(json.dumps({code: mean.tolist() for code, mean in means.items()}))
    language = {"model__connector__centring": "language"}
    run_on(1, recipe, "file", **language, model__connector__centring_text=str(path))
    kept = [load_file(p / "kept.safetensors") for p in (folder / "file" / "checkpoints").glob("step_*")]
    torch.testing.assert_close(kept[0]["student.centring.means"][1].double(), means["deu_Latn"], atol=1e-6, rtol=1e-6)
    run_on(1, recipe, "from_start", **language, model__start=str(folder / "file"))
    again = load_file(next(Path(folder / "from_start" / "checkpoints").glob("step_*")) / "kept.safetensors")
    assert torch.equal(again["student.centring.means"], kept[0]["student.centring.means"])
    run_on(1, recipe, "without", model__start=str(folder / "file"))
    assert not list((folder / "without").rglob("kept.safetensors"))


def test_a_centred_run_resumes(recipe):
    extra = {"model__connector__centring": "language", "model__connector__centring_text": str(recipe.parent / "text")}
    whole = run_on(1, recipe, "whole", **extra, run__max_steps=8)
    checkpoints = recipe.parent / "whole" / "checkpoints"
    (checkpoints / "step_00000008").rename(recipe.parent / "last")
    (checkpoints / "best.json").unlink()
    before = losses_of(whole)
    run_on(2, recipe, "whole", resume=True, **extra, run__max_steps=8)
    for step, loss in losses_of(whole).items():
        assert loss == pytest.approx(before[step], rel=1e-5)
