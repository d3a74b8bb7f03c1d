"""Which of the kernels' tests this process can run. The interpreter's process is started by test_interpreted.py."""

import pytest
import torch
from kernel_cases import gpu_runs, interpreting, runs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `run` is run by every backend, dtype and device; those of a GPU carry its marker."""
    if "run" in metafunc.fixturenames:
        on_gpu = [] if interpreting() else [pytest.param(r, marks=pytest.mark.gpu) for r in gpu_runs()]
        metafunc.parametrize("run", [*runs(), *on_gpu], ids=str)
