"""Task files: every tag is right, and every mistake in one is one line."""

from pathlib import Path

import pytest
import yaml
from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES

from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.items.tasks import NOT_IN_NLLB, load_task
from mtllm_ds.languages import FLORES_200

FOLDER = Path(__file__).parents[3] / "launchers" / "tasks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
NLLB = {
    "sat_Olck" if code == "sat_Beng" else code for code in FAIRSEQ_LANGUAGE_CODES
}  # NLLB writes Santali's script wrongly


def test_codes_that_nllb_lacks():
    assert set(FLORES_200) - NLLB == NOT_IN_NLLB


@pytest.mark.parametrize("name", NAMES)
def test_every_tag_is_one_of_nllb(name):
    task = load_task(name)
    assert task.name == name
    for code in task.languages:
        assert task.tag_of(code) in FLORES_200
        assert task.tag_of(code) in NLLB
        assert (code in task.tag_proxies) == (code not in NLLB), code


def test_the_numbers_of_languages_are_the_papers():
    sizes = {name: len(load_task(name).languages) for name in NAMES}
    assert sizes == {
        "americas_nli": 10, "belebele": 122, "ddtp_topics": 14, "lohelp_modules": 11, "lohelp_sample": 7, "nusax_senti": 12,
        "sib200": 205, "xnli": 15,
    }  # fmt: skip
    assert len(load_task("americas_nli").tag_proxies) == 7
    assert set(load_task("nusax_senti").tag_proxies) == {"bbc_Latn", "mad_Latn", "nij_Latn"}
    romanised = {"arb_Latn", "ben_Latn", "hin_Latn", "npi_Latn", "sin_Latn", "urd_Latn"}
    assert set(load_task("belebele").tag_proxies) == romanised


def values(**changes):
    base = {
        "name": "colours",
        "type": "classification",
        "labels": ["red", "blue"],
        "languages": ["eng_Latn", "ell_Grek"],
        "source": {"folder": "data", "fields": {"segments": ["text"]}},
    }
    return base | changes


def mistake(tmp_path, **changes):
    path = tmp_path / "colours.yaml"
    path.write_text(yaml.safe_dump(values(**changes)))
    with pytest.raises(UserError) as caught:
        load_task(str(tmp_path / "colours.yaml"))
    line = str(caught.value)
    assert "\n" not in line
    assert "colours.yaml" in line
    return line


def test_unknown_task_names_the_nearest():
    with pytest.raises(UserError, match=r"--task=belebelle: no such task; .* the nearest is 'belebele'"):
        load_task("belebelle")


def test_a_language_that_is_misspelt(tmp_path):
    assert "'ell_Grek'" in mistake(tmp_path, languages=["eng_Latn", "ell_Latn"])


def test_a_language_without_a_tag(tmp_path):
    assert "tag_proxies.min_Arab" in mistake(tmp_path, languages=["eng_Latn", "min_Arab"])
    assert "tag_proxies.tar_Latn" in mistake(tmp_path, languages=["eng_Latn", "tar_Latn"])


def test_an_alias_is_not_a_tables_name(tmp_path):
    assert "write 'als_Latn'" in mistake(tmp_path, languages=["eng_Latn", "sqi_Latn"])


def test_a_proxy_must_be_a_tag_and_be_needed(tmp_path):
    assert "unknown language tag" in mistake(tmp_path, languages=["tar_Latn"], tag_proxies={"tar_Latn": "spa_Grek"})
    assert "remove the proxy" in mistake(tmp_path, tag_proxies={"ell_Grek": "spa_Latn"})
    assert "not among the languages" in mistake(tmp_path, tag_proxies={"tar_Latn": "spa_Latn"})


def test_unknown_and_missing_keys(tmp_path):
    assert "unknown key 'metric'" in mistake(tmp_path, metric="f1")
    assert "missing key 'source.fields'" in mistake(tmp_path, source={"folder": "data"})


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"name: a\ntype: classification\nname: b\n", "key 'name' stands twice"),
        (b"name: \xff\n", "can't decode byte"),
        (b"[" * 20_000, "nested too deeply"),
    ],
)
def test_a_file_that_is_no_task_is_one_line(tmp_path, content, why):
    (tmp_path / "odd.yaml").write_bytes(content)
    with pytest.raises(UserError, match=rf"odd\.yaml: not YAML \(.*{why}") as caught:
        load_task(str(tmp_path / "odd.yaml"))
    assert "\n" not in str(caught.value)


def test_one_place_and_fitting_fields(tmp_path):
    fields = {"segments": ["text"]}
    assert "not both" in mistake(tmp_path, source={"folder": "a", "hub": "b", "fields": fields})
    assert "has 2" in mistake(tmp_path, type="pair_classification")
    assert "fields.options" in mistake(tmp_path, source={"folder": "a", "fields": {**fields, "options": ["a", "b"]}})
    assert "listed twice" in mistake(tmp_path, labels=["red", "red"])


def test_selecting_languages(tmp_path):
    (tmp_path / "colours.yaml").write_text(yaml.safe_dump(values()))
    task = load_task(str(tmp_path / "colours.yaml"))
    assert task.select(["all"]) == ("eng_Latn", "ell_Grek")
    assert task.select(["ell_Grek"]) == ("ell_Grek",)
    with pytest.raises(UserError, match="did you mean 'ell_Grek'"):
        task.select(["ell_Latn"])
    with pytest.raises(UserError, match="one place only"):
        task.located(training_data="elsewhere")


def test_a_training_source_has_english_only(tmp_path):
    task = load_task("americas_nli")
    assert len(task.select(["all"])) == 10
    assert task.select(["all"], "train") == task.select(["eng_Latn"], "valid") == ("eng_Latn",)
    with pytest.raises(UserError, match="its train items are English, not 'ayr_Latn'; ask for eng_Latn"):
        task.select(["ayr_Latn"], "train")
    (tmp_path / "colours.yaml").write_text(yaml.safe_dump(values()))
    own = load_task(str(tmp_path / "colours.yaml"))
    assert own.select(["all"], "train") == own.languages


def test_a_translation_is_read_with_a_tag(tmp_path):
    (tmp_path / "colours.yaml").write_text(yaml.safe_dump(values(read_as={"ell_Grek": "eng_Latn"})))
    task = load_task(str(tmp_path / "colours.yaml"))
    assert (task.tag_of("ell_Grek"), task.facts.tag_proxies) == ("eng_Latn", {})
    assert "read_as: 'deu_Latn' is not among the languages" in mistake(tmp_path, read_as={"deu_Latn": "eng_Latn"})
    assert "no tag for 'arb_Latn'" in mistake(tmp_path, read_as={"ell_Grek": "arb_Latn"})


def test_a_split_that_a_task_lacks(tmp_path):
    source = {"folder": "data", "splits": {"test": "test"}, "fields": {"segments": ["text"]}}
    (tmp_path / "colours.yaml").write_text(yaml.safe_dump(values(source=source)))
    with pytest.raises(UserError, match="no train split; there are test"):
        load_task(str(tmp_path / "colours.yaml")).source_of("train")
