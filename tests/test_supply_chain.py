"""The check of installed packages, on packages that are made and spoilt here; and the two files of pins say the same."""

import base64
import hashlib
from importlib.metadata import distributions

import pytest

from mtllm_ds.errors import UserError
from mtllm_ds.supply_chain import findings, read_pins
from tests.fixtures.runs import REPOSITORY


def digest(text):
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


@pytest.fixture
def site(tmp_path):
    """A folder with one installed package, `one-two` 1.0."""
    info = tmp_path / "one_two-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: One_Two\nVersion: 1.0\n")
    (tmp_path / "one.py").write_text("x = 1\n")
    (tmp_path / "one.pth").write_text("import one\n")
    record = [f"one.py,sha256={digest('x = 1' + chr(10))},6", f"one.pth,sha256={digest('import one' + chr(10))},11"]
    (info / "RECORD").write_text("\n".join([*record, "one_two-1.0.dist-info/RECORD,,"]) + "\n")
    return tmp_path


def found(site, pins=None):
    return list(findings({"one-two": "1.0"} if pins is None else pins, list(distributions(path=[str(site)]))))


def test_a_package_as_pinned_and_recorded_is_nothing_to_tell(site):
    assert found(site) == []


def test_another_version_and_an_unpinned_package_are_told(site):
    assert found(site, {"one-two": "1.1"}) == ["one-two 1.0: pinned is 1.1"]
    assert found(site, {}) == ["one-two 1.0: not pinned"]


def test_a_changed_file_and_a_missing_one_are_told(site):
    (site / "one.py").write_text("x = 2\n")
    assert found(site) == ["one-two 1.0: one.py was changed since it was installed (sha256 differs)"]
    (site / "one.py").unlink()
    assert "one.py cannot be read" in found(site)[0]


def test_what_runs_at_start_and_belongs_to_nobody_is_told(site):
    (site / "sitecustomize.py").write_text("")
    (site / "more.pth").write_text("import os")
    assert [line.split(":")[0] for line in found(site)] == [str(site / "more.pth"), str(site / "sitecustomize.py")]


def test_a_package_without_a_record_is_told(site):
    (site / "one_two-1.0.dist-info" / "RECORD").unlink()
    assert found(site)[0] == "one-two 1.0: has no record of its files"


@pytest.mark.parametrize("line", ["one==1.0", "one>=1.0 --hash=sha256:" + "0" * 64, "one==1.0 --hash=md5:00"])
def test_a_line_without_pin_or_hash_is_refused(tmp_path, line):
    (tmp_path / "pins.txt").write_text(line + "\n")
    with pytest.raises(UserError, match="no version or no sha256"):
        read_pins(tmp_path / "pins.txt")


def test_every_pin_has_its_hashes():
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines)
    hashed = read_pins(REPOSITORY / "hashes.txt")
    assert {name.lower().replace("_", "-"): version for name, version in pins.items()} == hashed
