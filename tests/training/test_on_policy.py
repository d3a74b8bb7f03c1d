"""On-policy runs: any number of ranks trains as one eager computation does; killed or stopped, a run goes on the same."""

import os
import random
import shutil
import signal

import pytest
import torch
import yaml
from torch.nn import functional
from transformers import LlamaForCausalLM

from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.cluster.parameter_groups import parameter_groups
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.stream.stream import TrainStream
from mtllm_ds.data.text.tokenization import TokenizerSpec
from mtllm_ds.draws import seed_of
from mtllm_ds.errors import UserError
from mtllm_ds.models.build import build_reader
from mtllm_ds.models.lm_head import load_output_head
from mtllm_ds.models.readers import token_embeddings
from mtllm_ds.objectives.token_distillation import TokenDistillation
from mtllm_ds.objectives.token_kl_head import TokenLoss
from mtllm_ds.preflight.plan import check_run
from mtllm_ds.training.engine import schedule_scale
from mtllm_ds.training.runs import run_seeds
from tests.distributed.ranks import PARTITIONED, ranks
from tests.fixtures.dialogue_runs import PACKED, make_dialogue_run
from tests.fixtures.dialogues import build, records
from tests.fixtures.runs import losses_of, rows_of, settings_of
from tests.objectives.test_on_policy import NEW, by_hand
from tests.training.test_interruptions import finish, ranks_of, start, wait_for_step

STEPS = 5
SHORT = {"run__max_steps": str(STEPS), "run__validate_every": str(STEPS), "run__save_every": "2", "run__keep_checkpoints": "9",
         "data__lanes": "4", "data__cells_per_forward": "1"}  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Student and teacher are as in `by_hand`: at most NEW tokens, drawn at temperature 1.3."""
    place = make_dialogue_run(tmp_path_factory.mktemp("on_policy"))
    settings = yaml.safe_load(place.read_text(encoding="utf-8"))
    settings["objective"]["rollouts"] = {"max_new_tokens": NEW, "temperature": 1.3}
    place.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return place


def train(recipe, overrides, resume=False):
    """On a rank of a pool."""
    return run_seeds(settings_of(recipe, **overrides), join_cluster(), resume)


def run_on(world_size, recipe, name, resume=False, **overrides):
    overrides |= {"run__output_dir": str(recipe.parent / name)}
    overrides.setdefault("training__deepspeed", PARTITIONED if world_size > 1 else "ds_configs/zero2.json")
    assert ranks(world_size).run(train, recipe, overrides, resume) == [0] * world_size
    return settings_of(recipe, **overrides)


def eager_losses(recipe, reader):
    """Without DeepSpeed, kernels, caches or batches: every sample alone, its response by hand, KL from logits of both, AdamW."""
    kind = {"stacked": "replace", "llm": "llm"}[reader]
    settings = settings_of(recipe, model__reader=reader, **SHORT)
    student = build_reader(settings, torch.device("cpu"))
    head = load_output_head(settings.model.given_llm, student, torch.float32)
    told = TokenDistillation(student, None, head, TokenLoss(), 2, reads_prompt=reader == "llm")
    teacher = LlamaForCausalLM.from_pretrained(recipe.parent / "llm").eval()
    optim = settings.optim
    optimizer = torch.optim.AdamW(
        parameter_groups(told, optim), lr=optim.learning_rate, betas=optim.betas, eps=optim.eps
    )
    stream = iter(
        TrainStream(Manifest.load(str(recipe.parent / "train_dialogues")), settings.data, rank=0, world_size=1, seed=0)
    )
    losses = {}
    for step in range(STEPS):
        total, count = torch.zeros(()), 0
        for data in next(stream).micro_batches:
            for row in range(data.host.num_valid):
                read = ["response_start", *(["student_prompt_ids"] if reader == "llm" else [])]
                room = 64 - max(data.host.columns[name][row] for name in read)
                response = by_hand(told, kind, data, row, seed_of(0, step), min(NEW, room))
                total = total + divergence(told, teacher, kind, data, row, response)
                count += len(response)
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_([p for p in told.parameters() if p.requires_grad], optim.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * schedule_scale(optim, step, STEPS)
        optimizer.step()
        optimizer.zero_grad()
        losses[step + 1] = float(total.detach()) / count
    return losses


def divergence(told, teacher, kind, data, row, response):
    """KL(teacher || student) over the tokens of one response."""
    student = told.student
    after = torch.tensor([response])
    start = data.host.columns["response_start"][row]
    ids = torch.cat([data.llm_ids[row : row + 1, :start], after], 1)
    with torch.no_grad():
        known = teacher(ids).logits[0, start - 1 : -1].log_softmax(-1)
    if kind == "replace":
        read = data.encoder_ids[row : row + 1, : data.host.num_tokens["encoder"][row]]
        before = student.connector(student.encoder(read, torch.ones_like(read)))
    else:
        own = data.extras["student_prompt_ids"][row : row + 1, : data.host.columns["student_prompt_ids"][row]]
        before = token_embeddings(student.llm, own)
    rows = torch.cat([before, token_embeddings(student.llm, after)], 1)
    states = student.llm.base_model.model(inputs_embeds=rows).last_hidden_state[0, before.shape[1] - 1 : -1]
    return functional.kl_div(told.losses.head(states).log_softmax(-1), known, log_target=True, reduction="sum")


@pytest.mark.parametrize("reader", ["stacked", "llm"])
def test_any_ranks_train_as_one_eager_computation(recipe, reader):
    truth = eager_losses(recipe, reader)
    assert truth[STEPS] != pytest.approx(truth[1], rel=1e-2)
    forms = {
        "one": (1, {}),
        "two": (2, {}),
        "recomputed": (2, {"training__activation_checkpointing": "true"}),
        "by_layers": (2, {"objective__rollouts__gather": "layers", "training__activation_checkpointing": "true"}),
    }
    for name, (world_size, more) in forms.items():
        run = run_on(world_size, recipe, f"{reader}_{name}", model__reader=reader, **SHORT, **more)
        assert losses_of(run) == pytest.approx(truth, rel=1e-5), name
        assert {"eval_kl", "eval_nll"} <= next(row for row in rows_of(run) if "eval_loss" in row).keys()


@pytest.mark.parametrize("packed", [False, True])
def test_a_resumed_run_goes_on_with_the_same_losses_on_other_ranks(recipe, packed):
    more = {**SHORT, "model__reader": "llm", **(PACKED if packed else {}), "objective__rollouts__share": "0.6"}
    name = f"resumed_{packed}"
    whole = losses_of(run_on(2, recipe, name, **more))
    for step in (4, STEPS):
        shutil.rmtree(recipe.parent / name / "checkpoints" / f"step_{step:08d}")
    assert losses_of(run_on(1, recipe, name, True, **more)) == pytest.approx(whole, rel=1e-5)


def test_killed_at_any_moment_a_run_goes_on_without_repeating_or_losing_a_sample(recipe):
    """SIGKILL to a rank, three times at random, each time resumed."""
    status, output = finish(start(recipe, "never_killed"))
    assert status == 0, output
    truth = losses_of(settings_of(recipe, run__output_dir=recipe.parent / "never_killed"))
    draw = random.Random(os.getpid())
    checkpoints = recipe.parent / "killed" / "checkpoints"
    for step in sorted(draw.sample(range(1, len(truth) - 1), 3)):
        process = start(recipe, "killed", *(["--resume"] if any(checkpoints.glob("step_*")) else []))
        wait_for_step(recipe, "killed", step, process)
        threads = ranks_of(process)
        os.kill(draw.choice(threads), signal.SIGKILL)
        status, _ = finish(process)
        assert status != 0
    status, output = finish(start(recipe, "killed", "--resume"))
    assert status == 0, output
    found = losses_of(settings_of(recipe, run__output_dir=recipe.parent / "killed"))
    assert sorted(found) == sorted(truth)
    assert found == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"objective__nll_weight": "0.5"},
            r"objective\.nll_weight=0\.5: the student would learn by heart what it wrote",
        ),
        ({"objective__rollouts__max_new_tokens": "64"}, r"max_new_tokens=64: model\.llm\.max_length=64 leaves no room"),
        ({"objective__rollouts__share": "0"}, r"objective\.rollouts\.share"),
        ({"objective__rollouts__temprature": "1"}, r"objective\.rollouts\.temprature"),
        (
            {"objective__rollouts__gather": "layers", "training__deepspeed": "ds_configs/zero2.json"},
            r"^objective\.rollouts\.gather=layers: has no effect with training\.deepspeed=.*zero2\.json",
        ),
    ],
)
def test_settings_that_do_not_fit_are_one_line(recipe, change, words):
    with pytest.raises(UserError, match=words) as told:
        check_run(settings_of(recipe, **change), 1)
    assert "\n" not in str(told.value)


def test_the_second_stage_begins_at_its_teacher_and_is_the_same_on_two_ranks(recipe):
    """`frozen_self=start`: the first LoRA, frozen, is a part of student and teacher, so that both tell the same to one prompt."""
    english = {
        **SHORT,
        "model__reader": "llm",
        "data__train": str(recipe.parent / "english"),
        "data__validation": "null",
    }
    specs = {
        side: TokenizerSpec(name=str(recipe.parent / name), side=side, max_length=64)
        for side, name in (("encoder", "mt"), ("llm", "llm"))
    }
    found = [one for one in records(60) if one["language"] == "eng_Latn"]
    build(recipe.parent / "english", found, specs, student_prompt=True)
    alone = {"objective__kl_weight": "0", "objective__nll_weight": "1", "objective__rollouts": "null"}
    first = run_on(1, recipe, "first", **english, **alone, optim__learning_rate="1e-2")
    second = english | {"model__start": first.run.output_dir, "model__merge_start_lora": "true"}
    curves = {
        (kind, world_size): losses_of(
            run_on(world_size, recipe, f"{kind}{world_size}", **second, objective__frozen_self=kind)
        )
        for kind, world_size in (("start", 1), ("start", 2), ("base", 1))
    }
    assert curves["start", 1][1] == 0.0
    assert curves["base", 1][1] > 1e-4
    assert curves["start", 2] == pytest.approx(curves["start", 1], rel=1e-5, abs=1e-7)
