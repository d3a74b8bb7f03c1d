"""Seconds by part out of a trace: counted by hand on a made-up GPU trace, and of ranges of known length on the CPU."""

import gzip
import json
import struct
import time

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from mtllm_ds.observe.profile_parts import seconds_by_part
from mtllm_ds.observe.profile_picture import draw_parts
from mtllm_ds.step_parts import RANGE, in_part


def annotation(name, start, end, thread=1):
    return {
        "ph": "X", "cat": "user_annotation", "name": RANGE + name, "pid": 7, "tid": thread, "ts": start * 1e6,
        "dur": (end - start) * 1e6,
    }  # fmt: skip


def launched(number, at, start, end, name="gemm", thread=1):
    """A kernel and the call that launched it."""
    return [
        {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "pid": 7, "tid": thread, "ts": at * 1e6, "dur": 1.0,
         "args": {"correlation": number}},
        {"ph": "X", "cat": "kernel", "name": name, "pid": 0, "tid": 9, "ts": start * 1e6, "dur": (end - start) * 1e6,
         "args": {"correlation": number}},
    ]  # fmt: skip


def written(path, events):
    text = json.dumps({"traceEvents": events})
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


HOST = [
    annotation("step", 0, 10), annotation("data", 0, 1), annotation("student forward", 1, 5), annotation("teacher", 2, 4),
    annotation("collectives", 3, 3.5), annotation("backward", 5, 9),
    annotation("step", 20, 26), annotation("student forward", 20, 23), annotation("collectives", 30, 40),
]  # fmt: skip


def test_time_belongs_to_the_innermost_part_and_adds_up_to_the_step(tmp_path):
    found = seconds_by_part(written(tmp_path / "trace.json", HOST))
    assert (found.num_steps, found.step) == (2, pytest.approx(8))
    expected = {
        "data": 0.5, "student forward": (2 + 3) / 2, "teacher": 1.5 / 2, "collectives": 0.25, "backward": 2, "rest": 2,
    }  # fmt: skip
    assert found.host == pytest.approx(expected)
    assert sum(found.host.values()) == pytest.approx(found.step)
    assert (found.device, found.exposed_communication, found.idle) == ({}, None, None)
    assert found.parts == found.host


def test_kernels_belong_to_the_part_that_launched_them_and_bare_collectives_are_exposed(tmp_path):
    events = [
        *HOST,
        *launched(1, 1.5, 1.5, 3),
        *launched(2, 2.5, 4, 6),
        *launched(3, 3.1, 5, 8, "ncclDevKernel_AllGather"),  # 2 seconds alone
        *launched(4, 6, 9, 9.5, thread=2),  # autograd's thread, within the loop's backward
        *launched(5, 15, 15, 16),  # between two steps
        *launched(6, 31, 31, 32, "ncclDevKernel_AllReduce"),
    ]
    found = seconds_by_part(written(tmp_path / "trace.json.gz", events))
    expected = {"student forward": 0.75, "teacher": 1, "collectives": 1.5, "backward": 0.25}
    assert found.device == pytest.approx(expected)
    assert found.parts is found.device
    assert found.exposed_communication == pytest.approx(1)
    assert found.idle == pytest.approx((16 - 1.5 - 4 - 0.5) / 2)


def test_a_picture_has_both_sides_where_there_is_a_gpu(tmp_path):
    host = seconds_by_part(written(tmp_path / "host.json", HOST))
    both = seconds_by_part(written(tmp_path / "gpu.json", [*HOST, *launched(1, 1.5, 1.5, 3)]))
    widths = [struct.unpack(">I", draw_parts(found, "steps 1 to 2")[16:20])[0] for found in (host, both)]
    assert widths[1] == 2 * widths[0]


def test_a_trace_without_a_step_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no range"):
        seconds_by_part(written(tmp_path / "trace.json", [annotation("data", 0, 1)]))


def test_ranges_reach_a_trace_of_torch_and_cost_nothing_without_a_profiler(tmp_path):
    with in_part("step"):
        pass
    with profile(activities=[ProfilerActivity.CPU]) as running:
        for _ in range(2):
            with in_part("step"):
                with in_part("student forward"), in_part("encoder"):
                    time.sleep(0.02)
                with in_part("backward"):
                    torch.zeros(3).sum()
    running.export_chrome_trace(str(tmp_path / "trace.json.gz"))
    found = seconds_by_part(tmp_path / "trace.json.gz")
    assert found.num_steps == 2
    assert found.host.keys() == {"student forward", "encoder", "backward", "rest"}
    assert 0.02 <= found.host["encoder"] <= found.step
