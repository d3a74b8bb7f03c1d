"""What ships is found by name or by the path it has in the repository, from any folder; what a user has at hand goes first."""

import pytest

from mtllm_ds.config.names import is_missing_folder, lasting_name, resolve_model_name
from mtllm_ds.config.shipped import DEEPSPEED_FILES, KINDS, RECIPES, ROOT, TASKS, find_file, shipped_place
from mtllm_ds.errors import UserError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.what)
def test_by_name_and_by_path(kind):
    assert len(kind.names) > 3
    for name in kind.names:
        expected = ROOT / kind.folder / f"{name}{kind.suffix}"
        assert expected.is_file()
        assert find_file(kind, name, "x") == expected
        assert find_file(kind, f"{kind.folder}/{name}{kind.suffix}", "x") == expected
        assert find_file(kind, expected, "x") == expected


def test_a_file_at_hand_is_meant_by_its_path_only(tmp_path):
    own = tmp_path / "ds_configs" / "zero3.json"
    own.parent.mkdir()
    own.write_text("{}")
    assert find_file(DEEPSPEED_FILES, "ds_configs/zero3.json", "x").resolve() == own
    assert find_file(DEEPSPEED_FILES, "zero3", "x") == ROOT / "ds_configs" / "zero3.json"
    (tmp_path / "mine.yaml").write_text("")
    assert find_file(RECIPES, "mine.yaml", "x").resolve() == tmp_path / "mine.yaml"


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        (RECIPES, "mtllm_stag1", "--recipe=mtllm_stag1: no such recipe; .*'mtllm_stage1'"),
        (RECIPES, "recipes/demo.yml", "no such file; .*'demo'"),
        (TASKS, "", "'"),
        (TASKS, "../launchers/tasks/sib200.yaml", "no such file; .*'sib200'"),
        (DEEPSPEED_FILES, "zero_3", "no such DeepSpeed file; .*'zero3'"),
        (DEEPSPEED_FILES, "zero3/", "no such file"),
    ],
)
def test_a_wrong_name_is_one_line_with_the_nearest(kind, given, said):
    with pytest.raises(UserError, match=said) as caught:
        find_file(kind, given, "--recipe")
    assert "\n" not in str(caught.value)
    assert "`mtllm-ds list`" in str(caught.value)


def test_models_and_texts(tmp_path):
    assert resolve_model_name("assets/mt") == str(ROOT / "assets" / "mt")
    assert shipped_place("assets/text/LICENSE") == ROOT / "assets" / "text" / "LICENSE"
    assert is_missing_folder("assets/mtt")  # no owner of the hub
    for name in ("facebook/nllb-200-distilled-600M", "./assets/mt", "assets/../setup.py", "assets/mtt", "runs/demo"):
        assert resolve_model_name(name) == name
    assert lasting_name(resolve_model_name("assets/mt")) == "assets/mt"
    (tmp_path / "assets" / "mt").mkdir(parents=True)
    assert resolve_model_name("assets/mt") == "assets/mt"
    assert lasting_name("assets/mt") == str(tmp_path / "assets" / "mt")
    assert lasting_name("facebook/nllb-200-distilled-600M") == "facebook/nllb-200-distilled-600M"
