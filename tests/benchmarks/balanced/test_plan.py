"""The steps of the balanced benchmark: every command parses, every student reads what its name says, tokens are equal."""

from pathlib import Path

import pytest

from benchmarks.balanced.budgets import BUDGETS, CPU, SMOKE
from benchmarks.balanced.plan import Plan
from benchmarks.balanced.students import STUDENTS, Place
from benchmarks.steps import _check
from mtllm_ds.config import load_settings
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.text.tokenization import TokenizerSpec
from mtllm_ds.data.writing.builder import build_shards
from mtllm_ds.data.writing.settings import ShardSettings
from mtllm_ds.data.writing.sources import InputFile
from tests.fixtures.tokenizers import save_bert_tokenizer


def plan_of(budget, root=Path("runs/balanced/x")):
    return Plan(Place(root, "cpu", "fp32"), budget, Path("assets/text")).build()


def commands_of(plan):
    for step in plan.steps:
        commands = step.commands() if callable(step.commands) else step.commands
        yield from ((step.name, command) for command in commands)


def save_shards(plan, data, tokenizer, line):
    inputs = []
    for code in plan.budget.languages:
        path = plan.place.root / f"{data}_{code}.jsonl"
        path.write_text(f'{{"text": "{line}"}}\n' * 3)
        inputs.append(InputFile(path=str(path), language=code))
    spec = TokenizerSpec(name=str(tokenizer), side="llm")
    build_shards(ShardSettings(inputs=tuple(inputs), llm=spec), plan.place.shards(data), num_workers=1)


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """Settings of every training of the CPU budget, by step."""
    root = tmp_path_factory.mktemp("plan")
    tokenizer = save_bert_tokenizer(root / "tokenizer" / "tokenizer")
    plan = plan_of(CPU, root)
    for data in ("train", "balanced"):
        save_shards(plan, data, tokenizer, "one two three")
    found = {}
    for name, command in commands_of(plan):
        if command[3] == "train" and not name.startswith("transfer/"):
            arguments = command[4:]
            found[name] = load_settings(arguments[1], arguments[2:])
    return plan, found


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=lambda budget: budget.name)
def test_steps_come_after_what_they_need(budget):
    _check(plan_of(budget).steps)


def test_students_differ_in_data_and_teachers_alone(trainings):
    _, settings = trainings
    plain = settings["students/plain/seed-1"].model_dump()
    for student in STUDENTS:
        own = settings[f"students/{student.name}/seed-1"].model_dump()
        for section in ("model", "optim", "training"):
            assert own[section] == plain[section]
        assert own["data"]["train"].endswith(f"shards/{student.data}")
        assert own["data"]["lanes"] * own["data"]["samples_per_cell"] == CPU.lines_per_step
        assert own["objective"]["mask_share"] == plain["objective"]["mask_share"]
        assert len(own["objective"]["teacher_of"]) == (len(CPU.languages) if student.teachers else 0)


def test_all_but_the_control_of_steps_read_as_much(trainings):
    _, settings = trainings
    for student in STUDENTS:
        steps = {settings[f"students/{student.name}/seed-{seed}"].run.max_steps for seed in CPU.seeds}
        more = 8 * CPU.teacher_steps + CPU.student_steps // 3 if student.extra_steps else 0
        assert steps == {CPU.student_steps + more}


def test_students_of_longer_lines_make_fewer_steps(tmp_path):
    """So that all read as many tokens; all are exported at their last step."""
    tokenizer, plan = save_bert_tokenizer(tmp_path / "tokenizer"), plan_of(CPU, tmp_path)
    save_shards(plan, "train", tokenizer, "one two three")
    save_shards(plan, "balanced", tokenizer, "one two three one two three")
    counts = [Manifest.load(str(plan.place.shards(data))).statistics["deu_Latn"] for data in ("train", "balanced")]
    short, long = (own["llm_tokens"] / own["samples"] for own in counts)
    steps = {student.name: plan.student_steps(student) for student in STUDENTS}
    assert steps["plain"] == CPU.student_steps
    assert steps["balanced_taught"] == steps["balanced"] == round(CPU.student_steps * short / long) < steps["plain"]
    step = next(step for step in plan.steps if step.name == "students/balanced/seed-0")
    assert step.commands()[1][-2:] == ["--step", str(steps["balanced"])]


def test_teachers_have_read_what_the_student_s_name_says(trainings):
    plan, settings = trainings
    for name, data in (("balanced_taught", "train"), ("taught", "train"), ("few_line_teachers", "balanced")):
        for code, teacher in settings[f"students/{name}/seed-2"].objective.teacher_of.items():
            wanted = "train" if code in CPU.low else data
            step = plan.place.teacher(code, wanted, 2)
            assert teacher.name == str(plan.place.model(step))
            own = settings[step]
            assert own.data.train.endswith(f"shards/{wanted}")
            assert own.data.mixing.weights == {code: 1}
            assert own.run.seed == 1002  # never a student's


def test_a_killed_training_goes_on(tmp_path):
    plan = plan_of(SMOKE, tmp_path)
    step = next(step for step in plan.steps if step.name == "students/plain/seed-0")
    assert "--resume" not in step.commands()[0]
    (plan.place.run(step.name) / "checkpoints" / "step_0000002").mkdir(parents=True)
    assert "--resume" in step.commands()[0]


def test_sizes_are_those_of_the_protocol():
    assert len(CPU.languages) == len(set(CPU.languages)) >= 8
    assert len(CPU.seeds) == 3
    assert CPU.high_lines >= 4 * CPU.low_lines
