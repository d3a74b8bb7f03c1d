"""How good is an MT encoder for stacking? Retrieval, offset and a borrowed classifier, on held-out segments."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from benchmarks.quality.vectors.borrowed_head import centred_cosines
from benchmarks.quality.vectors.mean_states import pooled
from mtllm_ds.languages import ENGLISH


def mean_states(
    model, tokenizer, texts: list[str], language: str, batch_size: int = 64, max_length: int = 256
) -> np.ndarray:
    """Mean-pooled final encoder states of `[language] x </s>`, (n, D) float32."""
    tokenizer.src_lang = language
    rows = tokenizer([" ".join(text.split()) for text in texts], truncation=True, max_length=max_length).input_ids
    was_training = model.training
    model.eval()
    vectors = pooled(
        rows, tokenizer.pad_token_id, lambda *batch: model.model.encoder(*batch)[0], model.device, batch_size
    )
    model.train(was_training)
    return vectors.numpy()


def centred_retrieval(
    queries: np.ndarray, candidates: np.ndarray, query_mean: np.ndarray, candidate_mean: np.ndarray
) -> float:
    """Share of queries whose own candidate (same row) has the highest cosine after subtracting each side's mean."""
    nearest = centred_cosines(queries, candidates, query_mean, candidate_mean).argmax(1)
    return float((nearest == np.arange(len(queries))).mean())


class EncoderProbe:
    """Scores an encoder on held-out segments: `english`, `translations` and topics of those that are validation items.

    `labelled`: English items ({text, label}) that the borrowed classifier is fitted on.
    """

    def __init__(self, tokenizer, valid, labelled: list[dict], topics: dict[str, str]):
        self.tokenizer, self.valid, self.labelled, self.topics = tokenizer, valid, labelled, topics

    def __call__(self, model) -> dict[str, float]:
        """`retrieval_L`, `offset_L` (squared distance of a pair over English variance), `probe_L` (accuracy) a language."""
        train = mean_states(model, self.tokenizer, [item["text"] for item in self.labelled], ENGLISH)
        scaler = StandardScaler().fit(train)
        head = LogisticRegression(C=0.03, max_iter=300).fit(
            scaler.transform(train), [i["label"] for i in self.labelled]
        )
        english = mean_states(model, self.tokenizer, self.valid.english, ENGLISH)
        spread = ((english - english.mean(0)) ** 2).sum(1).mean()
        gold = np.array([self.topics[text] for text in self.valid.english])
        scores = {"probe_eng_Latn": float((head.predict(scaler.transform(english)) == gold).mean())}
        for language in sorted({language for found in self.valid.translations for language in found}):
            rows = [i for i, found in enumerate(self.valid.translations) if language in found]
            texts = [self.valid.translations[i][language] for i in rows]
            foreign = mean_states(model, self.tokenizer, texts, language)
            own = english[rows]
            scores[f"retrieval_{language}"] = centred_retrieval(foreign, own, foreign.mean(0), own.mean(0))
            scores[f"offset_{language}"] = float(((foreign - own) ** 2).sum(1).mean() / spread)
            scores[f"probe_{language}"] = float((head.predict(scaler.transform(foreign)) == gold[rows]).mean())
        for name in ("retrieval", "offset", "probe"):
            foreign_scores = [v for k, v in scores.items() if k.startswith(name) and not k.endswith(ENGLISH)]
            scores[f"mean_{name}"] = float(np.mean(foreign_scores))
        return scores
