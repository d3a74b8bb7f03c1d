"""A hub that is away is told in one line, by one quick try; a slow one is not taken for that."""

import os
import socket
import subprocess
import sys

import pytest
from huggingface_hub import constants

from mtllm_ds.config import hub
from mtllm_ds.errors import UserError
from tests.fixtures.runs import REPOSITORY

MODEL = "someone/some-model"


@pytest.fixture
def listener():
    """A socket that takes connections and never answers; closing it leaves a port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def url(listener):
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(autouse=True)
def online(monkeypatch, listener, tmp_path):
    """As if nobody had said offline, with the hub at `listener`; restores what the module changes."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", url(listener))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub.time, "sleep", lambda seconds: None)
    hub._found_away.cache_clear()
    yield
    hub._found_away.cache_clear()


def test_a_hub_that_is_slow_to_answer_is_there():
    hub.require_reachable(MODEL, "model.llm.name")
    assert not constants.HF_HUB_OFFLINE


def test_a_hub_that_is_away(listener, tmp_path):
    listener.close()
    for _ in range(2):
        with pytest.raises(UserError, match=f"model.llm.name={MODEL}: http://127.0.0.1:.* cannot be reached") as caught:
            hub.require_reachable(MODEL, "model.llm.name")
        assert "\n" not in str(caught.value)
    assert constants.HF_HUB_OFFLINE
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    (tmp_path / "cache" / "models--someone--some-model").mkdir(parents=True)
    hub.require_reachable(MODEL, "model.llm.name")  # fetched before
    hub.require_reachable(str(tmp_path), "model.llm.name")  # a folder


def test_what_needs_no_hub_asks_none(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "_connects", lambda *address: pytest.fail("asked"))
    hub.require_reachable(str(tmp_path), "x")
    hub.require_reachable("./not-there", "x")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.require_reachable(MODEL, "x")


def test_the_proxy_is_what_must_be_reached(monkeypatch, listener):
    monkeypatch.setenv("http_proxy", url(listener))
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    assert hub._first_host("http://hub.invalid") == listener.getsockname()[:2]
    assert not hub.go_offline_if_away()
    monkeypatch.setenv("no_proxy", "hub.invalid")
    assert hub._first_host("http://hub.invalid") == ("hub.invalid", 80)


def test_a_dry_run_of_a_shipped_recipe_is_one_line(listener, tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'kernels'}", "HF_ENDPOINT": url(listener)}
    environment |= {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    listener.close()
    done = subprocess.run(
        [sys.executable, "-m", "mtllm_ds", "train", "--recipe", "mtllm_stage1", "--dry-run", "--world-size", "16"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()  # no "Retrying in 8s" of the library
    assert line.startswith("error: model.encoder.name=facebook/nllb-200-distilled-600M: http://127.0.0.1:")
