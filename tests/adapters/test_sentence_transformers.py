"""The adapter gives the vectors of `MTLLM.encode`, whatever the library does around it."""

import numpy as np
import pytest
import torch

from mtllm_ds.errors import UserError
from mtllm_ds.inference import MTLLM
from tests.fixtures.exports import make_export
from tests.fixtures.tokenizers import TEXT

sentence_transformers = pytest.importorskip(
    "sentence_transformers", reason="the extra sentence-transformers is not installed"
)
from sentence_transformers.sentence_transformer.modules import Pooling  # noqa: E402

from mtllm_ds.adapters.sentence_transformers import load_sentence_transformer  # noqa: E402

TEXTS = [*TEXT, "", "x " * 200]  # one without a word, one longer than the encoder reads


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return make_export(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def truth(export):
    return MTLLM.from_pretrained(export)


@pytest.fixture(scope="module")
def model(export):
    return load_sentence_transformer(export, lang="deu_Latn", device="cpu")


def test_vectors_are_those_of_mtllm(model, truth):
    vectors = model.encode(TEXTS, batch_size=3)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, truth.encode(TEXTS, lang="deu_Latn"), atol=1e-5)
    english = model.encode(TEXTS, lang="eng_Latn")
    np.testing.assert_allclose(english, truth.encode(TEXTS, lang="eng_Latn"), atol=1e-5)
    assert np.abs(english - vectors).max() > 1e-3
    assert model.get_embedding_dimension() == vectors.shape[1]


def test_what_the_library_offers(model, truth):
    expected = truth.encode(TEXTS[:2], lang="deu_Latn")
    one = model.encode(TEXTS[0], convert_to_tensor=True)
    torch.testing.assert_close(one, expected[0], atol=1e-5, rtol=0)
    unit = model.encode(TEXTS[:2], normalize_embeddings=True)
    np.testing.assert_allclose(unit, torch.nn.functional.normalize(expected), atol=1e-5)
    prompted = model.encode(TEXTS[:1], prompt="query: ")
    np.testing.assert_allclose(prompted, truth.encode([f"query: {TEXTS[0]}"], lang="deu_Latn"), atol=1e-5)
    np.testing.assert_allclose(model.encode_query(TEXTS[:2]), expected, atol=1e-5)
    tokens = model.encode(TEXTS[:1], output_value="token_embeddings")
    torch.testing.assert_close(tokens[0].mean(0), expected[0], atol=1e-5, rtol=0)
    similarity = model.similarity(unit, unit)
    assert similarity.diagonal().allclose(torch.ones(2))


@pytest.mark.parametrize(("pooling", "mode"), [("last", "lasttoken"), ("weighted_mean", "weightedmean")])
def test_other_pooling_is_that_of_the_library(tmp_path, pooling, mode):
    export = make_export(tmp_path, bidirectional=False, pooling=pooling)
    model = load_sentence_transformer(export, lang="deu_Latn", device="cpu")
    vectors = model.encode(TEXTS, batch_size=3)
    np.testing.assert_allclose(vectors, MTLLM.from_pretrained(export).encode(TEXTS, lang="deu_Latn"), atol=1e-5)
    features = model[0](model.preprocess(TEXTS))
    of_library = Pooling(model.get_embedding_dimension(), mode)(
        {name: features[name] for name in ("token_embeddings", "attention_mask")}
    )
    np.testing.assert_allclose(vectors, of_library["sentence_embedding"].detach(), atol=1e-5)


def test_pairs_are_read_as_pairs(model, truth):
    pair = (TEXT[0], TEXT[1])
    (vector,) = model.encode([pair])
    ids = torch.tensor([truth.ids(pair, "deu_Latn")])
    with torch.no_grad():
        states = truth.reader.states(ids, torch.ones_like(ids))
    np.testing.assert_allclose(vector, states[0].mean(0), atol=1e-5)


def test_saved_and_read_again(model, tmp_path):
    model.save_pretrained(str(tmp_path / "saved"))
    again = sentence_transformers.SentenceTransformer(str(tmp_path / "saved"), trust_remote_code=True, device="cpu")
    np.testing.assert_array_equal(again.encode(TEXTS), model.encode(TEXTS))


def test_wrong_tags(export, model):
    with pytest.raises(UserError, match="'ell_Grek'"):
        load_sentence_transformer(export, lang="ell_Latn")
    with pytest.raises(UserError, match="'ell_Grek'"):
        model.encode(["x"], lang="ell_Latn")
    with pytest.raises(ValueError, match="language"):
        model.encode(["x"], language="deu_Latn")
