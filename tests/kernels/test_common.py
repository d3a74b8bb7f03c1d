"""What the kernels share: how rows are cut into chunks, refusals without a synchronisation, float16's units."""

import pytest
import torch
from mtllm_kernels.common import device
from mtllm_kernels.common.checks import refused_rows
from mtllm_kernels.common.chunks import unit_of


def exhaustive(num_rows: int, width: int, vocabulary: int, element_bytes: float, processors: int) -> tuple[int, int]:
    """(waves, rows) of the best chunk, every multiple of 128 that the scratch allows tried."""
    most = max(int(device.SCRATCH_BYTES / (element_bytes * vocabulary)) // 128 * 128, 128)
    most = min(most, -(-num_rows // 128) * 128)

    def waves(rows: int) -> int:
        return -(-num_rows // rows) * -(-(-(-rows // 128) * -(-width // 256)) // processors)

    return min((waves(rows), rows) for rows in range(min(1024, most), most + 1, 128))


@pytest.mark.parametrize("num_rows", [1, 129, 1000, 2048, 8191, 8192, 20000])
@pytest.mark.parametrize("vocabulary", [1003, 32000, 256206])
@pytest.mark.parametrize(("width", "processors"), [(1024, 132), (4096, 132), (4096, 108)])
def test_chunks_are_the_best_of_all(
    monkeypatch: pytest.MonkeyPatch, num_rows: int, vocabulary: int, width: int, processors: int
) -> None:
    monkeypatch.setattr(device, "num_multiprocessors", lambda _: processors)
    rows = device.chunk_rows(torch.empty(num_rows, width, device="meta"), vocabulary, 4.0)
    waves, _ = exhaustive(num_rows, width, vocabulary, 4.0, processors)
    assert rows % 128 == 0
    assert rows * vocabulary * 4 <= device.SCRATCH_BYTES
    assert -(-num_rows // rows) * -(-(rows // 128 * -(-width // 256)) // processors) == waves


@pytest.mark.parametrize("vocabulary", [3, 1003, 32000, 256206])
def test_the_search_for_a_chunk_is_short(vocabulary: int) -> None:
    """Host work of every call: counted, not timed. It once grew with the scratch: 7,000 candidates at V 1003."""
    for num_rows in (0, 1, 8192, 100_000):
        assert 1 <= len(device.candidates(num_rows, vocabulary, 4.0)) <= max(num_rows // 1024 + 1, 1)


def test_wrong_rows_raise_here_and_poison_elsewhere() -> None:
    weight, wrong = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([False, True, True])
    with pytest.raises(ValueError, match="ids are odd, in row 2 of 3"):
        refused_rows(wrong, "ids are odd", weight)
    assert torch.equal(refused_rows(torch.tensor([False, True, False]), "ids are odd", weight), weight)
    poisoned = torch.compile(lambda w, r: refused_rows(w, "ids are odd", r), backend="eager", fullgraph=True)(
        wrong, weight
    )
    assert poisoned.isnan().tolist() == [False, False, True]
    assert refused_rows(wrong.to("meta"), "ids are odd", weight.to("meta")).device.type == "meta"


@pytest.mark.parametrize("size", [1e-9, 1e-3, 1.0, 1e9])
def test_units_make_use_of_float16(size: float) -> None:
    q = torch.randn(5, 100, generator=torch.Generator().manual_seed(0)) * size
    q[3] = 0.0
    unit = unit_of(q)[:, None]
    assert ((q / unit).half().float() * unit - q).norm() <= 3e-4 * q.norm()
