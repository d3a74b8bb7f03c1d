"""Token distillation through the loop: fused and eager give one curve, on one rank and two; the head is gathered once a forward."""

import shutil

import pytest
import yaml
from rich.console import Console

from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.commands import prepare
from mtllm_ds.config import load_settings
from mtllm_ds.errors import UserError
from mtllm_ds.preflight import plan
from mtllm_ds.preflight.plan import check_run, describe_plan
from mtllm_ds.training.assemble import open_run
from mtllm_ds.training.runs import run_seeds
from tests.distributed.ranks import PARTITIONED, RankError, ranks
from tests.fixtures.dialogue_runs import PACKED, make_dialogue_run
from tests.fixtures.runs import losses_of, rows_of, settings_of

STEPS = 50


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_dialogue_run(tmp_path_factory.mktemp("token_distillation"))


def train(recipe, overrides):
    """On a rank of a pool."""
    return run_seeds(settings_of(recipe, **overrides), join_cluster(), False)


def run_on(world_size, recipe, name, **overrides):
    overrides |= {"run__output_dir": str(recipe.parent / name)}
    if world_size > 1:
        overrides |= {"training__deepspeed": PARTITIONED, "training__whole_frozen_gib": 0}
    assert ranks(world_size).run(train, recipe, overrides) == [0] * world_size
    return settings_of(recipe, **overrides)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "more"),
    [
        ("padded", {"objective__nll_weight": "0.5"}),
        ("packed", {**PACKED, "model__reader": "llm", "objective__divergence": "jsd"}),
    ],
)
def test_fused_and_eager_losses_give_the_same_curve(recipe, rows, more):
    """Fifty steps in fp32, on one rank and on two under ZeRO-3 with every weight partitioned."""
    steps = {"run__max_steps": str(STEPS), "run__validate_every": str(STEPS), "run__save_every": str(STEPS),
             "data__lanes": "2", "data__cells_per_forward": "1", "optim__learning_rate": "3e-3"}  # fmt: skip
    curves = {
        (form, world_size): losses_of(
            run_on(world_size, recipe, f"{rows}_{form}{world_size}", **steps, **more, objective__backend=form)
        )
        for form, world_size in (("reference", 1), ("chunked", 1), ("chunked", 2))
    }
    eager = curves["reference", 1]
    assert len(eager) == STEPS
    assert eager[STEPS] < eager[1]
    for curve in curves.values():
        assert curve == pytest.approx(eager, abs=1e-4)


def gathers_of_the_head(recipe, overrides):
    """On a rank of two: how often the head was gathered in forwards and in backwards, and the number of forwards of a run."""
    from deepspeed.runtime.zero.parameter_offload import ZeroParamStatus
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator as Coordinator

    from mtllm_ds.objectives.token_distillation import TokenDistillation

    name = "_PartitionedParameterCoordinator__all_gather_params_"
    gather, forward, seen, heads, forwards = getattr(Coordinator, name), TokenDistillation.forward, [], set(), [0]

    def spy(self, params, is_forward, **options):
        seen.extend((p.ds_id, is_forward) for p in params if p.ds_status == ZeroParamStatus.NOT_AVAILABLE)
        return gather(self, params, is_forward, **options)

    def counted(self, batch):
        forwards[0] += 1
        heads.add(dict(self.named_parameters())["losses.head.weight"].ds_id)
        return forward(self, batch)

    setattr(Coordinator, name, spy)
    TokenDistillation.forward = counted
    try:
        run_seeds(settings_of(recipe, **overrides), join_cluster(), False)
    finally:
        setattr(Coordinator, name, gather)
        TokenDistillation.forward = forward
    (head,) = heads
    return seen.count((head, True)), seen.count((head, False)), forwards[0]


@pytest.mark.parametrize(
    ("reader", "packed"), [("stacked", False), ("llm", True)], ids=["stacked_padded", "llm_packed"]
)
def test_two_ranks_gather_the_head_once_a_forward_and_never_in_backward(recipe, reader, packed):
    """In training and in validation, with activation checkpointing."""
    overrides = {
        "run__output_dir": str(recipe.parent / f"gathers_{reader}"), "training__deepspeed": PARTITIONED,
        "training__whole_frozen_gib": 0, "model__reader": reader, "run__max_steps": "3", "run__validate_every": "3",
        "training__activation_checkpointing": "true", "objective__nll_weight": "0.5",
        **(PACKED if packed else {}),
    }  # fmt: skip
    for in_forward, in_backward, forwards in ranks(2).run(gathers_of_the_head, recipe, overrides):
        assert forwards > 3
        assert (in_forward, in_backward) == (forwards, 0)


def test_readers_and_layouts_train_alike_on_two_ranks(recipe):
    for name, more in (
        ("prepend", {"objective__layout": "prepend", "objective__clip": "0.05"}),
        ("nll", {**PACKED, "model__reader": "llm", "objective__kl_weight": "0", "objective__nll_weight": "1"}),
    ):
        steps = {"run__max_steps": "4", "run__validate_every": "2"}
        one, two = (run_on(world_size, recipe, f"{name}{world_size}", **steps, **more) for world_size in (1, 2))
        assert losses_of(two) == pytest.approx(losses_of(one), rel=1e-5)
        rows = [[row for row in rows_of(run) if "eval_loss" in row] for run in (one, two)]
        assert len(rows[0]) == 2
        for a, b in zip(*rows, strict=True):
            figures = {"eval_nll", "eval_nll/deu_Latn", "eval_nll/eng_Latn"} | (
                {"eval_kl"} if name == "prepend" else set()
            )
            assert figures <= a.keys()
            for figure in figures:
                assert b[figure] == pytest.approx(a[figure], rel=1e-5)


def test_a_teacher_that_told_all_tokens_before_gives_the_curve_of_the_live_one(recipe):
    """Written by two ranks; read by one and by two under ZeRO-3 with every weight partitioned, padded and packed."""
    llm, data = (
        str(recipe.parent / "llm"),
        [str(recipe.parent / f"{name}_dialogues") for name in ("train", "validation")],
    )
    asked = ["teacher-targets", "--teacher", llm, "--data", *data, "--name", "all", "--top-k", "512"]
    assert ranks(2).run(prepare.main, asked) == [0, 0]
    steps = {"run__max_steps": "4", "run__validate_every": "2", "objective__nll_weight": "0.5"}
    for rows, more in (("padded", {}), ("packed", {**PACKED, "model__reader": "llm"})):
        live = run_on(1, recipe, f"live_{rows}", **steps, **more)
        for world_size in (1, 2):
            cached = run_on(world_size, recipe, f"cached_{rows}{world_size}", **steps, **more, data__targets="all")
            assert losses_of(cached) == pytest.approx(losses_of(live), rel=1e-5)
            seen = [[row for row in rows_of(run) if "eval_loss" in row] for run in (live, cached)]
            assert len(seen[0]) == 2
            for one, other in zip(*seen, strict=True):
                figures = {name: value for name, value in one.items() if name.startswith("eval_")}
                assert {name: other[name] for name in figures} == pytest.approx(figures, rel=1e-4)


def test_target_sets_of_another_temperature_kind_or_precision_are_one_line(recipe, tmp_path):
    llm, folders = str(recipe.parent / "llm"), []
    for name in ("dialogues", "plain"):
        source = recipe.parent / ("train_dialogues" if name == "dialogues" else "train")
        folders.append(str(shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("targets"))))
    asked = ["teacher-targets", "--teacher", llm, "--name", "t", "--data"]
    assert prepare.main([*asked, folders[0], "--top-k", "4", "--temperature", "2"]) == 0
    data = {"data__train": folders[0], "data__validation": "null", "data__targets": "t"}
    assert check_run(settings_of(recipe, **data, objective__temperature="2"), 1)
    with pytest.raises(
        UserError, match=r"'llm, next tokens at temperature 2', not 'llm, next tokens at temperature 1'"
    ):
        check_run(settings_of(recipe, **data), 1)
    for arguments, line in (
        ([folders[0]], r"^--data=.*: holds dialogues, whose teacher tells next tokens; say how many by --top-k$"),
        ([folders[1], "--top-k", "4"], r"^--top-k=4: the shards in .* hold no responses; leave it out, or give"),
        ([folders[0], "--top-k", "4"], "begun by another teacher"),
        ([folders[0], "--top-k", "8", "--temperature", "2"], "^--top-k=8: targets .* were begun with 4; give that, or"),
        (
            [folders[0], "--top-k", "4", "--temperature", "2", "--precision", "bf16"],
            "^--precision=bf16: targets .* were begun with fp32; give that, or",
        ),
        (
            [folders[0], "--top-k", "4", "--temperature", "2", "--store", "float16"],
            "^--store=float16: targets .* were begun with float32; give that, or",
        ),
        ([folders[0], "--top-k", "513"], r"^--top-k=513: .* tells 512 tokens; lower it$"),
        ([folders[0], "--top-k", "4", "--causal"], "^--causal: has no effect with --top-k"),
        ([folders[0], "--top-k", "4", "--pooling", "last"], "^--pooling=last: has no effect with --top-k"),
        ([folders[1], "--temperature", "2"], r"^--temperature=2\.0: has no effect without --top-k; leave it out$"),
    ):
        with pytest.raises(UserError, match=line):
            prepare.main([*asked, *arguments])


def test_a_dry_run_shows_what_student_and_teacher_read(recipe):
    text = describe_plan(check_run(load_settings(recipe), 2)).splitlines()
    at = text.index("dialogue")
    assert [line.split()[0] for line in text[at + 1 : at + 7]] == [
        "encoder",
        "student",
        "teacher",
        "response",
        "border",
        "border",
    ]
    assert "<bos>|" in text[at + 3]
    assert text[at + 5].split("->")[1] == text[at + 6].split("->")[1]


def test_shards_that_lack_what_the_student_reads_are_one_line(recipe, tmp_path):
    from mtllm_ds.data.text.tokenization import TokenizerSpec
    from tests.fixtures.dialogues import build, records

    specs = {
        side: TokenizerSpec(name=str(recipe.parent / name), side=side, max_length=64)
        for side, name in (("encoder", "mt"), ("llm", "llm"))
    }
    build(tmp_path / "bare", records(20), specs)
    bare = {"data__train": str(tmp_path / "bare"), "data__validation": "null"}
    assert check_run(settings_of(recipe, **bare), 1)
    for more in ({"model__reader": "llm"}, {"objective__layout": "prepend"}):
        with pytest.raises(
            UserError, match=r"no column 'student_prompt_ids'.*add it by mtllm-ds prepare dialogues --student-prompt"
        ):
            check_run(settings_of(recipe, **bare, **more), 1)
    plain = {"data__train": str(recipe.parent / "train"), "data__validation": "null"}
    with pytest.raises(UserError, match=r"no column 'response_start'.*mtllm-ds prepare dialogues"):
        check_run(settings_of(recipe, **plain), 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model__llm__bidirectional": "true"}, "tells the next token, which an LLM that looks both ways has seen"),
        (
            {"model__trainable": "all", "model__lora": "{}"},
            "keeps the LLM and its head as they are beside LoRA; set it to lora",
        ),
        ({"objective__kl_weight": "0"}, "objective.kl_weight=0: objective.nll_weight is 0 too"),
        (
            {"objective__kl_weight": "0", "objective__nll_weight": "1", "objective__clip": "1"},
            "objective.clip=1.0: has no effect",
        ),
        (
            {"objective__kl_weight": "0", "objective__nll_weight": "1", "objective__select_by": "kl"},
            "asks no teacher; select by nll",
        ),
        ({"objective__beta": "0.3"}, "objective.beta=0.3: has no effect with objective.divergence=forward_kl"),
        (
            {"objective__clip": "0.05", "objective__backend": "chunked"},
            "objective.backend=chunked: has no effect beside",
        ),
        (
            {"model__reader": "llm", "objective__layout": "prepend"},
            "objective.layout=prepend: has no effect with model.reader=llm",
        ),
        ({"model__reader": "encoder"}, "does not train it; set model.reader=stacked or llm"),
        (
            {"data__targets": "t", "objective__kl_weight": "0", "objective__nll_weight": "1"},
            "data.targets=t: has no effect with objective.name=token_distillation",
        ),
        (
            {"data__targets": "t", "objective__divergence": "jsd"},
            "which tell no objective.divergence=jsd; set it to forward_kl, or remove data.targets",
        ),
        (
            {"data__targets": "t", "objective__clip": "0.1"},
            "not all that objective.clip=0.1 bounds; remove one of the two",
        ),
        (
            {"data__targets": "t", "objective__rollouts__max_new_tokens": "8"},
            "objective.rollouts lets the student write others; remove one of the two",
        ),
        (
            {"data__targets": "t", "objective__temperature": "2", "objective__select_by": "kl"},
            "tells nothing of temperature 1 beside objective.temperature=2.0; select by loss",
        ),
    ],
)
def test_settings_that_do_not_fit_are_one_line(recipe, change, words):
    if change.get("model__lora") == "{}":
        settings = yaml.safe_load(recipe.read_text(encoding="utf-8"))
        del settings["model"]["lora"]
        change = {"model__trainable": "all"}
        recipe = recipe.with_name("without_lora.yaml")
        recipe.write_text(yaml.safe_dump(settings), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        settings_of(recipe, **change)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def open_where_a_dialogue_is_damaged(recipe, output):
    """On a rank: a run in which rank 1 alone cannot show the first dialogue."""
    cluster, shown = join_cluster(), plan.dialogue_lines

    def damaged(*_):
        raise UserError("a damaged block; mend it")

    plan.dialogue_lines = damaged if cluster.rank == 1 else shown
    try:
        return open_run(settings_of(recipe, run__output_dir=output), cluster, False, Console(quiet=True))
    finally:
        plan.dialogue_lines = shown


def test_a_dialogue_that_one_rank_cannot_show_stops_all(recipe, tmp_path):
    with pytest.raises(RankError) as caught:
        ranks(2).run(open_where_a_dialogue_is_damaged, recipe, str(tmp_path / "run"))
    assert [error[0] for error in caught.value.errors] == ["PeerFailedError", "UserError"]
