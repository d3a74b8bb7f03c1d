"""The verdict: confirmed only where every known language is below every rival beyond chance and the divergence is small enough."""

import numpy as np
import pytest

from benchmarks.generative.verdict import decide, gaps, kl_share
from mtllm_ds.evaluation.generation.readings import Readings

GROUPS = [str(number // 2) for number in range(40)]
LEVELS = {"model": (1.0, 0.3), "shuffled": (1.6, 0.9), "llm": (1.5, 0.7), "none": (1.7, 0.8), "english": (0.8, 0.0)}


def language(**changes):
    """reading -> sums, about these (NLL, KL) per token."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(10, 40, len(GROUPS))
    noise = rng.normal(scale=0.02, size=len(GROUPS))
    return {
        name: Readings(tokens, tokens * (nll + noise), tokens * np.full(len(GROUPS), kl))
        for name, (nll, kl) in (LEVELS | changes).items()
    }


def test_better_everywhere_is_confirmed():
    scores = {"deu_Latn": language(), "fra_Latn": language(model=(1.2, 0.4))}
    assert kl_share(scores, list(scores)) == pytest.approx(0.35 / 0.8)
    assert decide(scores, dict.fromkeys(scores, GROUPS), list(scores)).status == "confirmed"
    assert gaps(scores["deu_Latn"], GROUPS)["llm"].mean == pytest.approx(-0.5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"model": (1.499, 0.3), "llm": (1.495, 0.7)},
            "fra_Latn is not below the LLM reading the prompt itself beyond chance",
        ),
        ({"none": (0.9, 0.8)}, "fra_Latn is not below no prompt"),
        ({"shuffled": (1.0, 0.8)}, "fra_Latn is not below another prompt"),
        ({"model": (1.0, 0.7)}, "the divergence is above 0.5"),
    ],
)
def test_one_failure_is_told(changes, said):
    scores = {"deu_Latn": language(), "fra_Latn": language(**changes)}
    verdict = decide(scores, dict.fromkeys(scores, GROUPS), list(scores))
    assert verdict.status == "not confirmed"
    assert said in verdict.line


def test_languages_that_the_encoder_does_not_know_do_not_count():
    scores = {"deu_Latn": language(), "gaz_Latn": language(model=(3.0, 2.0))}
    assert decide(scores, dict.fromkeys(scores, GROUPS), ["deu_Latn"]).status == "confirmed"


def test_a_smoke_run_judges_nothing():
    assert decide({"deu_Latn": language()}, {"deu_Latn": GROUPS}, ["deu_Latn"], is_smoke=True).status == "not judged"
