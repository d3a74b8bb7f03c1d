"""A path that is not there is told from a hub name without asking the hub."""

import pytest

from mtllm_ds.config.names import is_missing_folder


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("here/model", False),
        ("here/modle", True),
        ("facebook/nllb-200-distilled-600M", False),
        ("bert-base-uncased", False),
        ("./bert-base-uncased", True),
        ("/nowhere/model", True),
        ("runs/stage1/export", True),
        ("package:some_package/model", False),
    ],
)
def test_a_missing_folder_is_known_without_the_hub(name, expected, tmp_path, monkeypatch):
    (tmp_path / "here" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert is_missing_folder(name) == expected
