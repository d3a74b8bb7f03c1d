"""What killed writers leave behind is cleared, and nothing else."""

from mtllm_ds import atomic


def test_leftovers_go_and_what_was_being_replaced_comes_back(tmp_path):
    for name in (".step_00000004.123.tmp", ".step_00000002.77.old", ".new.9.old", "step_00000002", ".git", ".a.b.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "inside").write_text(name)
    for name in (".best.json.55.tmp", ".lock", "best.json", ".odd.tmp"):
        (tmp_path / name).write_text(name)
    atomic.remove_leftovers(tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".a.b.tmp", ".git", ".lock", ".odd.tmp", "best.json", "new", "step_00000002"]
    assert (tmp_path / "new" / "inside").read_text() == ".new.9.old"
    assert (tmp_path / "step_00000002" / "inside").read_text() == "step_00000002"
    atomic.remove_leftovers(tmp_path / "missing")
