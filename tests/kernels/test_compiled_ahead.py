"""The kernels compile for chips that are not there: no spills, within the chip's shared memory, wide stores."""

import shutil

import pytest
from kernel_cases import interpreting

triton = pytest.importorskip("triton")

from benchmarks.kernels.compiler_report import SHARED_LIMIT_BYTES, Build, builds, compile_for  # noqa: E402
from benchmarks.kernels.rehearsal import rehearsing  # noqa: E402

pytestmark = pytest.mark.skipif(interpreting(), reason="the interpreter's process cannot compile")

ON_EVERY_CHIP = ("products bf16", "products fp16", "gradient jsd", "split jsd all options")


def cases() -> list:
    found = {}
    for capability in (90,) if rehearsing() else SHARED_LIMIT_BYTES:  # a rehearsal is for the one chip that is to come
        for build in builds(capability):
            if capability == 90 or build.name.startswith(ON_EVERY_CHIP):
                found[f"sm_{capability} {build.name}"] = (build, capability)
    return [pytest.param(*case, id=name) for name, case in found.items()]


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compiled afresh: a cached artefact says nothing about this compiler."""
    folder = tmp_path_factory.mktemp("triton")
    with triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(folder)
        yield
    shutil.rmtree(folder)


@pytest.mark.parametrize(("build", "capability"), cases())
def test_compiles_without_spills(build: Build, capability: int) -> None:
    figures = compile_for(build, capability)
    assert figures.spilled_bytes == 0
    assert figures.narrow_stores == 0  # no size but rows' padded lengths was said to be a multiple of 16
    assert figures.shared_bytes <= SHARED_LIMIT_BYTES[capability]
    assert not build.uses_tensor_cores or figures.wgmma + figures.mma > 0
    assert not (build.uses_tensor_cores and capability == 90) or figures.wgmma > 0
