"""Rows reach `metrics.jsonl` whole, are dropped when their steps run again, and read well on a pipe."""

import io
import json

import pytest
from rich.console import Console

from mtllm_ds.observe.sinks import JsonlSink, ScreenSink, TensorBoardSink, describe

ROW = {
    "step": 3,
    "loss": 0.5,
    "fvu": 0.25,
    "learning_rate": 1e-4,
    "grad_norm": 2.0,
    "tokens_per_second": 1234.5,
    "seconds": 2.0,
}


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_rows_after_the_resumed_step_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    sink = JsonlSink(path, 0)
    for step in (1, 2, 3, 4):
        sink.write({**ROW, "step": step})
    sink.close()
    with path.open("a") as stream:
        stream.write('{"step": 5, "lo')  # a killed process
    again = JsonlSink(path, 2)
    again.write({**ROW, "step": 3})
    again.close()
    assert steps(path) == [1, 2, 3]


@pytest.mark.parametrize(
    "damage",
    [
        b"[1]",
        b"7",
        b"null",
        b'{"loss": 1.0}',
        b'{"step": "two"}',
        b"\xff\xfe\0",
        b"[" * 100_000,
        b"1" * 5_000,
        b"{}",
        b"",
    ],
)
def test_lines_that_are_no_rows_are_left_out_on_resume(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    first, second = (json.dumps({**ROW, "step": step}).encode() for step in (1, 2))
    path.write_bytes(first + b"\n" + damage + b"\n" + second + b"\n")
    JsonlSink(path, 2).close()
    assert steps(path) == [1, 2]


def test_a_pipe_gets_one_line_a_row():
    out = io.StringIO()
    sink = ScreenSink(10, 0, Console(file=out, width=40))
    sink.write({**ROW, "seconds_left": 3725.0})
    sink.write({"step": 3, "eval_fvu": 0.125, "eval_loss": 0.5})
    sink.close()
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    for part in ("step 3/10", "loss 0.5", "fvu 0.250", "1,234 tok/s", "lr 1.00e-04", "norm 2", "left 1:02:05"):
        assert part in lines[0]
    assert "validation fvu 0.1250" in lines[1]


def test_describe_leaves_out_what_is_not_there():
    assert describe({"step": 1, "loss": 2.0}) == "loss 2"


def test_tensorboard_events_hold_every_number(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = TensorBoardSink(tmp_path, 0)
    sink.write(ROW)
    sink.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Scalars("loss")[0].value == 0.5
    assert events.Scalars("fvu")[0].step == 3
