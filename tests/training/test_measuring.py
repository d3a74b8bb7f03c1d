"""What a run on two ranks says of its own cost, and what it leaves of profiled steps."""

import json

import pytest
from rich.console import Console

from mtllm_ds.cluster.collectives import COUNTS
from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.observe.profile_parts import seconds_by_part
from mtllm_ds.observe.profiler import ProfileRequest
from mtllm_ds.training.assemble import open_run
from tests.distributed.ranks import PARTITIONED, ranks
from tests.fixtures.runs import LANES, SAMPLES, make_run, rows_of, settings_of

PEAK_TFLOPS = 0.5
OVERRIDES = {
    "run__max_steps": 6, "run__validate_every": 3, "run__save_every": 4, "run__log_every": 2,
    "training__deepspeed": PARTITIONED, "training__peak_tflops": PEAK_TFLOPS,
    "training__flops_profiler_step": 2,
}  # fmt: skip
FOLDER = "profile/steps_3_to_5"


def profiled(recipe, overrides):
    """On a rank: the bytes that it sent in each step."""
    request = ProfileRequest.parse("steps=3:6")
    trainer = open_run(settings_of(recipe, **overrides), join_cluster(), False, Console(quiet=True), request)
    sent, take = [], trainer._take_step

    def counted(*step):
        before = COUNTS.copy()
        loss = take(*step)
        sent.append(dict(COUNTS.since(before).sent_bytes))
        return loss

    trainer._take_step = counted
    try:
        trainer.run()
    finally:
        trainer.close()
    return sent


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    recipe = make_run(tmp_path_factory.mktemp("measured"))
    sent = ranks(2).run(profiled, recipe, OVERRIDES)
    settings = settings_of(recipe, **OVERRIDES)
    return [row for row in rows_of(settings) if "loss" in row], sent, recipe.parent / "run"


def test_rows_tell_what_steps_cost(run):
    rows, (sent, _), _ = run
    assert [row["step"] for row in rows] == [2, 4, 6]
    for number, row in enumerate(rows):
        seconds = 2 * LANES * SAMPLES / row["documents_per_second"]
        assert row["tokens_per_second"] > row["documents_per_second"]
        assert 0 < row["model_tflops_per_second_per_rank"] < row["hardware_tflops_per_second_per_rank"]
        assert row["mfu"] == pytest.approx(row["model_tflops_per_second_per_rank"] / PEAK_TFLOPS)
        assert row["hfu"] == pytest.approx(row["hardware_tflops_per_second_per_rank"] / PEAK_TFLOPS)
        assert row["peak_tflops_per_rank"] == PEAK_TFLOPS
        assert 0 <= row["data_wait_seconds"] < seconds
        assert row["peak_memory_bytes"] > 2**25
        assert "peak_reserved_bytes" not in row
        for kind in ("all_gather", "reduce_scatter", "all_reduce"):
            of_steps = [step[kind] for step in sent[2 * number : 2 * number + 2]]
            assert row[f"sent_bytes/{kind}"] == sum(of_steps) / 2
            assert row[f"collectives/{kind}"] > 0
        assert row["sent_bytes/agreement"] < 1000
    spent = {
        name: [name in row for row in rows] for name in ("validation_seconds", "saving_seconds", "profiling_seconds")
    }
    assert spent == {
        "validation_seconds": [False, True, False], "saving_seconds": [False, True, True],
        "profiling_seconds": [False, False, True],
    }  # fmt: skip


def test_deepspeed_says_which_module_makes_which_products(run):
    table = (run[2] / "profile" / "deepspeed_flops_of_step_2.txt").read_text()
    assert "DeepSpeed Flops Profiler" in table
    assert all(f"({module})" in table for module in ("encoder", "connector", "q_proj", "lora_A"))


def test_profiled_steps_leave_a_trace_seconds_by_part_and_a_picture(run):
    folder = run[2] / FOLDER
    names = {"trace-rank0.json.gz", "seconds-rank0.json", "seconds-rank0.png"}
    assert {path.name for path in folder.iterdir()} == names
    found = seconds_by_part(folder / "trace-rank0.json.gz")
    assert found.num_steps == 3
    assert found.host.keys() >= {
        "data", "prepare", "encoder", "connector", "teacher", "student forward", "backward", "collectives", "optimizer", "rest",
    }  # fmt: skip
    assert sum(found.host.values()) == pytest.approx(found.step)
    written = json.loads((folder / "seconds-rank0.json").read_text())
    assert written["host"] == pytest.approx(found.host)
    assert (folder / "seconds-rank0.png").read_bytes().startswith(b"\x89PNG")


def error_of_a_profiled_forward(recipe, overrides):
    """On a rank: what comes out of a step whose forward fails while DeepSpeed's profiler looks at it."""
    trainer = open_run(settings_of(recipe, **overrides), join_cluster(), False, Console(quiet=True))

    def fails(batch):
        raise OSError("a stale file handle")

    trainer.engine.forward = fails
    try:
        trainer.run()
    except OSError as error:
        return str(error)
    finally:
        trainer.close()


def test_a_forward_that_fails_under_the_profiler_is_no_table_that_cannot_be_written(tmp_path):
    recipe = make_run(tmp_path)
    overrides = {"run__output_dir": str(tmp_path / "fails"), "run__max_steps": 2, "training__flops_profiler_step": 1}
    assert ranks(1).run(error_of_a_profiled_forward, recipe, overrides) == ["a stale file handle"]
