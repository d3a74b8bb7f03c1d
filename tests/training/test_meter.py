"""What the meter of one rank alone tells, and that each row begins anew."""

import torch

from mtllm_ds.cluster.collectives import COUNTS
from mtllm_ds.cluster.launch import Cluster
from mtllm_ds.observe.gpus import Peak
from mtllm_ds.training import meter as meter_module
from mtllm_ds.training.meter import Meter, peak_for
from tests.fixtures.runs import make_run, settings_of

CPU = torch.device("cpu")
ALONE = Cluster(rank=0, world_size=1, local_rank=0, device=CPU)


class Clock:
    """Goes on when it is told to."""

    now = 100.0

    def perf_counter(self):
        return self.now


def test_a_row_tells_of_its_own_steps_alone(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(meter_module, "time", clock)
    meter = Meter(ALONE, Peak(2e12, "made up"))
    for _ in range(2):
        with meter.step():
            COUNTS.add("all_gather", 100, 4)
            COUNTS.add("all_reduce", 8, 1)
            with meter.waiting():
                clock.now += 0.5
            clock.now += 2
        meter.took(tokens=30, documents=3)
    COUNTS.add("all_gather", 100, 4)  # of a validation
    meter.flops.head(6 * 10**12)
    with meter.pause("validation"):
        clock.now += 7
    row = meter.figures(meter.totals())
    assert {name: value for name, value in row.items() if name != "peak_memory_bytes"} == {
        "tokens_per_second": 60 / 5, "documents_per_second": 6 / 5, "model_tflops_per_second_per_rank": 6 / 5,
        "hardware_tflops_per_second_per_rank": 6 / 5, "mfu": 6 / 5 / 2, "hfu": 6 / 5 / 2, "peak_tflops_per_rank": 2,
        "data_wait_seconds": 0.5, "sent_bytes/all_gather": 75, "collectives/all_gather": 1, "sent_bytes/all_reduce": 0,
        "collectives/all_reduce": 1, "validation_seconds": 7,
    }  # fmt: skip
    assert row["peak_memory_bytes"] > 2**20
    clock.now += 1
    empty = meter.figures(meter.totals())
    assert empty["tokens_per_second"] == empty["mfu"] == empty["data_wait_seconds"] == 0
    assert not any(name.startswith(("sent_bytes", "validation")) for name in empty)


def test_a_cpu_has_no_peak_unless_it_is_said(tmp_path):
    recipe = make_run(tmp_path)
    assert peak_for(settings_of(recipe), CPU) is None
    assert peak_for(settings_of(recipe, training__peak_tflops=1.5), CPU) == Peak(1.5e12, "training.peak_tflops")
    assert "mfu" not in Meter(ALONE, None).figures(Meter(ALONE, None).totals())
