"""A base in 8 bits under ZeRO: losses are those of a base whose weights were rounded before, and gathers carry the 8 bits."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from mtllm_ds import MTLLM
from mtllm_ds.checkpoint.export import export_run
from mtllm_ds.data.text.tokenization import TokenizerSpec
from mtllm_ds.errors import UserError
from mtllm_ds.models.int8_linear import Int8Linear, dequantise_layers
from mtllm_ds.models.loading import load_llm
from mtllm_ds.transfer_sets.merged_llm import write_merged
from tests.distributed.ranks import PARTITIONED, RankError, ranks
from tests.fixtures.dialogue_runs import PACKED, make_dialogue_run
from tests.fixtures.dialogues import build, records
from tests.fixtures.models import llama_config
from tests.fixtures.rounding import rounded_to_8_bits
from tests.fixtures.runs import learnt, losses_of, make_run, rows_of, settings_of
from tests.training.test_compile import train as train_compiled
from tests.training.test_paired_sweep import gathered
from tests.training.test_runs import train_until, train_with

STEPS = 4
RANKS = 2
INT8 = {"model__llm__quantization": "int8"}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return with_rounded(make_run(tmp_path_factory.mktemp("texts")))


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory):
    return with_rounded(make_dialogue_run(tmp_path_factory.mktemp("dialogues")))


def with_rounded(recipe):
    """The recipe, beside its LLM the same with the matrices of its layers rounded, for either precision."""
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        folder = shutil.copytree(recipe.parent / "llm", recipe.parent / f"rounded_{precision}")
        tensors = load_file(folder / "model.safetensors")
        matrices = [name for name in tensors if ".layers." in name and tensors[name].ndim == 2]
        assert len(matrices) == 14
        rounded = {name: rounded_to_8_bits(tensors[name].to(dtype)).float() for name in matrices}
        save_file(tensors | rounded, folder / "model.safetensors", metadata={"format": "pt"})
    return recipe


def chosen(recipe, name, **overrides):
    return {
        "run__output_dir": str(recipe.parent / name), "run__max_steps": STEPS, "run__validate_every": 2, "run__save_every": 2,
        "training__deepspeed": PARTITIONED, "model__lora__dropout": 0.05, **overrides,
    }  # fmt: skip


RUNS = {
    "stage 1": ("texts", {}),
    "stage 1, all in shares": ("texts", {"training__whole_frozen_gib": 0, "model__paired_sweep": "true"}),
    "stage 1, packed, recomputed": ("texts", {**PACKED, "training__activation_checkpointing": "true"}),
    "stage 1, two passes, recomputed": (
        "texts", {"model__paired_sweep": "false", "training__activation_checkpointing": "true"},
    ),
    "stage 1, bf16": ("texts", {"training__precision": "bf16", "training__whole_frozen_gib": 0}),
    "stage 1, shipped thresholds": ("texts", {"training__deepspeed": "cpu"}),
    "stage 1, copies": ("texts", {"training__deepspeed": "zero3_hpz"}),
    "stage 1, offload": ("texts", {"training__deepspeed": "zero3_offload"}),
    "stage 1, ZeRO-2": ("texts", {"training__deepspeed": "zero2"}),
    "stage 1, ZeRO-2, bf16": ("texts", {"training__deepspeed": "zero2", "training__precision": "bf16"}),
    "stack, packed": ("dialogues", PACKED),
    "LLM alone, its own responses": ("dialogues", {"model__reader": "llm", "objective__rollouts__max_new_tokens": 4}),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_losses_are_those_of_a_base_whose_weights_were_rounded(request, name):
    """To the last bit, gradient norms and validation too; what trains starts alike."""
    kind, overrides = RUNS[name]
    recipe = request.getfixturevalue(kind)
    folder = name.replace(" ", "_").replace(",", "")
    rounded = recipe.parent / f"rounded_{overrides.get('training__precision', 'fp32')}"
    rows = {}
    for base, more in (("int8", INT8), ("rounded", {"model__llm__name": str(rounded)})):
        run = chosen(recipe, f"{folder}_{base}", **overrides, **more)
        assert ranks(RANKS).run(train_with, recipe, False, run) == [0] * RANKS
        rows[base] = [learnt(row) for row in rows_of(settings_of(recipe, **run))]
    assert len(rows["int8"]) > STEPS
    assert rows["int8"] == rows["rounded"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_layers_are_gathered_in_8_bits_and_in_as_many_calls(texts, precision):
    found, runs = {}, []
    for name, more in (("plain", {}), ("int8", INT8)):
        run = chosen(
            texts, f"gathered_{name}_{precision}", training__precision=precision, training__whole_frozen_gib=0,
            model__paired_sweep="true", **more,
        )  # fmt: skip
        one, other = ranks(RANKS).run(gathered, texts, run, False)
        assert one == other
        found[name] = one
        runs.append(run)
    itemsize = {"fp32": 4, "bf16": 2}[precision]
    config = llama_config()
    width, inner, keys = config.hidden_size, config.intermediate_size, config.hidden_size // 2
    shapes = [*[(width, width)] * 2, *[(keys, width)] * 2, *[(inner, width)] * 2, (width, inner)]
    saved = sum(itemsize * rows * columns - (rows * columns + itemsize * rows) for rows, columns in shapes)
    assert all(rows * columns % 4 == 0 for rows, columns in shapes)
    for plain, quantised in zip(found["plain"], found["int8"], strict=True):
        calls, num_bytes = plain["layers"]
        assert calls > 0
        assert quantised == plain | {"layers": (calls, num_bytes - calls * saved)}
    plain, quantised = (losses_of(settings_of(texts, **run)) for run in runs)
    assert plain != quantised
    assert quantised == pytest.approx(plain, rel=0.05)


def test_a_student_that_begins_as_its_teacher_has_nothing_to_learn(dialogues):
    """Both read the same prompts by the same weights, side by side: the loss of the first step is 0, to the last bit."""
    specs = {"llm": TokenizerSpec(name=str(dialogues.parent / "llm"), side="llm", max_length=64)}
    english = [record for record in records(60) if "teacher_prompt" not in record]
    build(dialogues.parent / "english", english, specs, student_prompt=True)
    run = chosen(
        dialogues, "same", model__reader="llm", model__encoder="null", model__paired_sweep="true", run__max_steps=2,
        data__train=str(dialogues.parent / "english"), data__validation="null", **INT8,
    )  # fmt: skip
    assert ranks(RANKS).run(train_with, dialogues, False, run) == [0] * RANKS
    losses = losses_of(settings_of(dialogues, **run))
    assert losses[1] == 0.0


def test_an_export_of_a_run_in_bf16_stands_for_the_weights_that_the_run_read(texts):
    """A base stored in fp32, of which the run rounds to bf16 first; read and merged in fp32."""
    stored = load_file(texts.parent / "llm" / "model.safetensors")
    assert any((tensor != tensor.bfloat16()).any() for tensor in stored.values())
    settings = settings_of(texts, **INT8).model.given_llm
    trained, served = (load_llm(settings, "eager", dtype) for dtype in (torch.bfloat16, torch.float32))
    for model in (trained, served):
        dequantise_layers(model)
    for (name, one), other in zip(trained.named_parameters(), served.parameters(), strict=True):
        assert torch.equal(one, other.bfloat16()), name


def test_a_run_goes_on_and_its_export_reads_as_the_run_did(texts):
    truth = chosen(texts, "truth", **INT8)
    assert ranks(RANKS).run(train_with, texts, False, truth) == [0, 0]
    stopped = chosen(texts, "stopped", **INT8)
    assert ranks(RANKS).run(train_until, texts, 3, stopped) == [False, False]
    assert ranks(RANKS).run(train_with, texts, True, stopped) == [0, 0]
    assert losses_of(settings_of(texts, **stopped)) == losses_of(settings_of(texts, **truth))
    rounded = chosen(texts, "on_rounded", model__llm__name=str(texts.parent / "rounded_fp32"))
    assert ranks(RANKS).run(train_with, texts, False, rounded) == [0, 0]
    vectors = []
    for name in ("truth", "on_rounded"):
        export_run(texts.parent / name, texts.parent / f"{name}_export")
        model = MTLLM.from_pretrained(texts.parent / f"{name}_export")
        vectors.append(model.encode(["Select the cells.", "Open the page."], lang="eng_Latn"))
    assert torch.equal(*vectors)
    export = texts.parent / "truth_export"
    plain = MTLLM.from_pretrained(export, dequantise=True)
    assert plain.quantization == "int8"
    assert not any(isinstance(part, Int8Linear) for part in plain.reader.modules())
    assert torch.equal(plain.encode(["Select the cells.", "Open the page."], lang="eng_Latn"), vectors[0])
    with pytest.raises(UserError, match="dequantise=True: has no effect"):
        MTLLM.from_pretrained(texts.parent / "on_rounded_export", dequantise=True)
    assert json.loads((export / "config.json").read_text())["quantization"] == "int8"
    assert "its layers in int8," in (export / "README.md").read_text()
    assert "int8" not in (texts.parent / "on_rounded_export" / "README.md").read_text()


@pytest.mark.parametrize(("first", "then"), [("null", "int8"), ("int8", "null")])
def test_a_start_may_have_had_another_base(texts, first, then):
    """Its LoRA goes on, or stays as a frozen part; what may not change is the base of one run."""
    begun = chosen(texts, f"begun_{first}", model__llm__quantization=first)
    assert ranks(RANKS).run(train_with, texts, False, begun) == [0] * RANKS
    for merges in ("false", "true"):
        run = chosen(
            texts, f"from_{first}_{merges}", model__start=begun["run__output_dir"], model__merge_start_lora=merges,
            model__llm__quantization=then, run__max_steps=1,
        )  # fmt: skip
        assert ranks(RANKS).run(train_with, texts, False, run) == [0] * RANKS
        losses = losses_of(settings_of(texts, **run))
        assert losses[1] < losses_of(settings_of(texts, **begun))[1]
    with pytest.raises(RankError, match=r"--resume: model\.llm\.quantization"):
        ranks(1).run(train_with, texts, True, begun | {"model__llm__quantization": then})


def test_what_is_merged_is_what_it_stood_for(dialogues):
    """A folder that transformers loads, in no 8 bits."""
    merged = {}
    rounded = {"model__llm__name": str(dialogues.parent / "rounded_fp32")}
    for name, more in (("int8", INT8), ("rounded", rounded)):
        run = chosen(dialogues, f"merged_{name}", model__reader="llm", **more)
        assert ranks(RANKS).run(train_with, dialogues, False, run) == [0, 0]
        write_merged(run["run__output_dir"], dialogues.parent / f"{name}_folder")
        card = (dialogues.parent / f"{name}_folder" / "README.md").read_text()
        assert (", the weights of its layers rounded to 8 bits," in card) == (name == "int8")
        merged[name] = AutoModel.from_pretrained(dialogues.parent / f"{name}_folder").state_dict()
    plain = AutoModel.from_pretrained(dialogues.parent / "rounded_fp32").state_dict()
    assert merged["int8"].keys() == plain.keys()
    for key, tensor in merged["int8"].items():
        assert torch.equal(tensor, merged["rounded"][key]), key
    assert not all(torch.equal(tensor, plain[key]) for key, tensor in merged["int8"].items())


@pytest.mark.slow
def test_compiled_layers_read_8_bits_too(texts):
    losses = []
    for compiles in ("false", "layers"):
        run = chosen(
            texts, f"compiled_{compiles}", training__compile=compiles, training__activation_checkpointing="true", **INT8
        )
        (counted, _) = ranks(RANKS).run(train_compiled, texts, run, "aot_eager")
        assert counted["graph_break"] == {}
        losses.append([*losses_of(settings_of(texts, **run)).values()])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
