"""Peaks that MFU is measured against: of whole GPUs that are known by name, and of no others."""

import pytest

from mtllm_ds.observe.gpus import peak_of


@pytest.mark.parametrize(
    ("name", "bf16", "fp32"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12, 19.5e12), ("NVIDIA A100 80GB PCIe", 312e12, 19.5e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12, 67e12), ("NVIDIA H200", 989.4e12, 67e12), ("NVIDIA B200", 2250e12, 75e12),
    ],
)  # fmt: skip
def test_known_gpus(name, bf16, fp32):
    found = peak_of(name, "bf16")
    assert found.flops == bf16
    assert name in found.source
    assert "datasheet" in found.source
    assert peak_of(name, "fp32").flops == fp32


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA H100 PCIe",
        "NVIDIA H100 NVL",
        "NVIDIA H200 NVL",
        "NVIDIA GB200",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "cpu",
    ],
)
def test_others_have_no_peak(name):
    assert peak_of(name, "bf16") is None
