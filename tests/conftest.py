"""Settings of the whole suite: quiet libraries, one thread a process, no network."""

import os

import pytest

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

_PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")
_GIVEN = {name for name in _PLACE if name in os.environ}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """What trains in this process leaves its place among ranks in the environment, where children would take it, and its port,
    for theirs."""
    for name in _PLACE:
        if name not in _GIVEN:
            os.environ.pop(name, None)


def pytest_sessionfinish():
    from tests.distributed.ranks import close_pools

    close_pools()
