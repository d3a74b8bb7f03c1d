"""`auto` follows what the device multiplies; what is asked for by name is taken as it is."""

import pytest
import torch

from mtllm_ds.cluster import precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags : fpu avx512f avx512_bf16 avx512_vnni", torch.bfloat16),
        ("flags : fpu amx_bf16 amx_tile", torch.bfloat16),
        ("flags : fpu avx2 avx512f xavx512_bf16_not", torch.float32),
        (None, torch.float32),
    ],
)
def test_auto_takes_bf16_where_the_cpu_multiplies_it(tmp_path, monkeypatch, flags, expected):
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(flags)
    monkeypatch.setattr(precision, "_CPU_FLAGS", tmp_path / "cpuinfo")
    assert precision.reading_dtype("auto", CPU) == expected
    assert precision.reading_dtype("bf16", CPU) == torch.bfloat16
    assert precision.reading_dtype("fp32", CPU) == torch.float32
