"""MTEB's own evaluation of local tasks: figures by hand from `MTLLM.encode`, each text with the tag of its subset."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from mtllm_ds import MTLLM
from mtllm_ds.errors import UserError
from tests.fixtures.exports import make_export
from tests.fixtures.models import save_bert, save_llama
from tests.fixtures.tokenizers import TEXT

mteb = pytest.importorskip("mteb", reason="the extra mteb is not installed")
from datasets import Dataset, DatasetDict  # noqa: E402
from mteb.abstasks import AbsTaskBitextMining, AbsTaskClassification  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.models import ModelMeta  # noqa: E402
from mteb.models.abs_encoder import AbsEncoder  # noqa: E402
from mteb.types import PromptType  # noqa: E402

from mtllm_ds.adapters.mteb import MTLLMEncoder  # noqa: E402

ABOUT = {
    "description": "made for a test", "reference": None, "dataset": {"path": "local", "revision": "1"}, "category": "t2t",
    "eval_splits": ["test"], "date": ("2026-01-01", "2026-01-01"), "dialect": [], "domains": [], "task_subtypes": [],
    "license": "cc-by-4.0", "annotations_creators": "derived", "modalities": ["text"], "sample_creation": "found",
    "bibtex_citation": "",
}  # fmt: skip
ENGLISH, GERMAN, KHMER = (
    [f"{text} {number}" for number in range(6) for text in own] for own in (TEXT[:3], TEXT[3:5] + TEXT[5:6], TEXT[7:])
)


class OurParallel(AbsTaskBitextMining):
    """Of FLORES form: a column per language."""

    parallel_subsets = True
    metadata = TaskMetadata(
        type="BitextMining", name="OurParallel", main_score="accuracy",
        eval_langs={"deu_Latn-eng_Latn": ["deu-Latn", "eng-Latn"], "khm_Khmr-eng_Latn": ["khm-Khmr", "eng-Latn"]}, **ABOUT,
    )  # fmt: skip

    def load_data(self, **kwargs):
        columns = {"deu_Latn": GERMAN[:6], "eng_Latn": ENGLISH[:6], "khm_Khmr": KHMER[:6]}
        self.dataset, self.data_loaded = DatasetDict(test=Dataset.from_dict(columns)), True


class OurTopics(AbsTaskClassification):
    """A subset per language, one of them unknown to the encoder."""

    n_experiments = 2
    samples_per_label = 4
    metadata = TaskMetadata(
        type="Classification", name="OurTopics", main_score="accuracy",
        eval_langs={"de": ["deu-Latn"], "km": ["khm-Khmr"], "es": ["spa-Latn"]}, **ABOUT,
    )  # fmt: skip

    def load_data(self, **kwargs):
        rows = {"de": GERMAN, "km": KHMER * 3, "es": ENGLISH}
        self.dataset = {
            code: DatasetDict(
                {
                    split: Dataset.from_dict({"text": texts, "label": [n % 3 for n in range(len(texts))]})
                    for split, texts in (("train", rows[code]), ("test", rows[code][::-1]))
                }
            )
            for code in self.hf_subsets
        }
        self.data_loaded = True


class Told(AbsEncoder):
    """An encoder that was told the tags of subsets."""

    def __init__(self, model, tags):
        self.model, self.tags, self.mteb_model_meta = model, tags, ModelMeta.create_empty()

    def encode(self, inputs, *, hf_subset, **kwargs):
        return self.model.encode([text for batch in inputs for text in batch["text"]], self.tags[hf_subset]).numpy()


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return make_export(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def truth(export):
    return MTLLM.from_pretrained(export)


def figures(model, task):
    """Main scores by subset."""
    (result,) = mteb.evaluate(model, task, cache=None, show_progress_bar=False).task_results
    return {row["hf_subset"]: row["main_score"] for row in result.scores["test"]}


def test_parallel_texts_are_read_each_in_its_language(export, truth):
    found = figures(MTLLMEncoder(export), OurParallel())
    for code, texts in (("deu_Latn", GERMAN[:6]), ("khm_Khmr", KHMER[:6])):
        own, english = (
            functional.normalize(truth.encode(rows, lang)) for rows, lang in ((texts, code), (ENGLISH[:6], "eng_Latn"))
        )
        nearest = (own @ english.T).argmax(1)
        assert found[f"{code}-eng_Latn"] == pytest.approx((nearest == torch.arange(6)).double().mean().item())


def test_subsets_are_read_with_their_tags_and_those_that_the_encoder_lacks_are_starred(export, truth):
    model, task = MTLLMEncoder(export, fallback="eng_Latn"), OurTopics()
    tags = {"de": "deu_Latn", "km": "khm_Khmr", "es": "eng_Latn"}
    assert figures(model, task) == pytest.approx(figures(Told(truth, tags), OurTopics()))
    assert model.starred([task, OurParallel()]) == {"OurTopics": ["es"]}
    assert model.starred([OurTopics().filter_languages(["deu"])]) == {}
    with pytest.raises(
        UserError, match=r"^OurTopics/es: the encoder has no tag for spa-Latn; leave the subset out, name"
    ):
        figures(MTLLMEncoder(export), OurTopics())
    named = MTLLMEncoder(export, languages={"OurTopics/es": "fra_Latn"})
    assert figures(named, OurTopics()) == pytest.approx(figures(Told(truth, tags | {"es": "fra_Latn"}), OurTopics()))
    assert named.starred([task]) == {}
    assert len({one.mteb_model_meta.revision for one in (model, named, MTLLMEncoder(export))}) == 3


def test_one_call_has_the_vectors_of_mtllm(export, truth):
    model, batches = MTLLMEncoder(export), [{"text": GERMAN[:4]}, {"text": GERMAN[4:7]}]
    asked = {"task_metadata": OurTopics.metadata, "hf_split": "test", "hf_subset": "de"}
    found = model.encode(batches, **asked, batch_size=3, show_progress_bar=False)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, truth.encode(GERMAN[:7], "deu_Latn"), atol=1e-5)
    assert np.abs(found - truth.encode(GERMAN[:7], "eng_Latn").numpy()).max() > 1e-3


def test_two_languages_need_a_word_which_is_which(export, truth):
    about = TaskMetadata(
        type="Retrieval",
        name="Across",
        main_score="ndcg_at_10",
        eval_langs={"de-en": ["deu-Latn", "eng-Latn"]},
        **ABOUT,
    )
    asked = {"task_metadata": about, "hf_split": "test", "hf_subset": "de-en"}
    with pytest.raises(
        UserError, match=r"^Across/de-en: holds deu-Latn and eng-Latn, and MTEB does not say which .*query"
    ):
        MTLLMEncoder(export).encode([{"text": ["a"]}], **asked, prompt_type=PromptType.query)
    with pytest.raises(UserError, match=r"^Across/de-en: holds .* which of them a text is in; leave it out$"):
        MTLLMEncoder(export).encode([{"text": ["a"]}], **asked)  # pairs are not told apart: no table helps
    table = {"Across/de-en/query": "deu_Latn", "Across/*/document": "eng_Latn"}
    model = MTLLMEncoder(export, languages=table)
    for kind, code in ((PromptType.query, "deu_Latn"), (PromptType.document, "eng_Latn")):
        found = model.encode([{"text": TEXT[:2]}], **asked, prompt_type=kind)
        np.testing.assert_allclose(found, truth.encode(TEXT[:2], code), atol=1e-5)
    with pytest.raises(UserError, match=r"^fallback=spa_Latn: the encoder has no tag for it"):
        MTLLMEncoder(export, fallback="spa_Latn")


@pytest.mark.parametrize("code", ["pcm-Latn", "bre-Latn", "urd-Latn", "khm-Khmr"])
def test_an_encoder_without_tags_reads_every_language_and_stars_none(code, tmp_path):
    bases = {"encoder": save_bert(tmp_path / "bert"), "llm": save_llama(tmp_path / "llm")}
    export = make_export(tmp_path, bases=bases)
    about = {"main_score": "accuracy", **ABOUT}
    task = TaskMetadata(type="Classification", name="Any", eval_langs={"own": [code]}, **about)
    both = TaskMetadata(type="STS", name="Both", eval_langs={"own": [code, "eng-Latn"]}, **about)
    model, truth = MTLLMEncoder(export), MTLLM.from_pretrained(export).encode(TEXT[:2], "deu_Latn")
    for metadata in (task, both):
        found = model.encode([{"text": TEXT[:2]}], task_metadata=metadata, hf_split="test", hf_subset="own")
        np.testing.assert_allclose(found, truth, atol=1e-5)
    assert model.starred([OurTopics()]) == {}
    for given in ({"languages": {"Any/own": "eng_Latn"}}, {"fallback": "eng_Latn"}):
        with pytest.raises(UserError, match=f"^{next(iter(given))}: has no effect on an encoder without tags"):
            MTLLMEncoder(export, **given)
