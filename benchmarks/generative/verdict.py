"""The verdict of the generative benchmark: pure functions of measured sums.

The claim: on held-out prompts, in every language that the encoder knows, the LLM's own English answer is likelier behind the
stack's reading of the foreign prompt than behind each rival's; and the divergence from the LLM that reads English is at most
half of that without a prompt, on average over these languages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mtllm_ds.evaluation.generation.readings import Estimate, Readings, estimate
from mtllm_ds.evaluation.report.parts import Verdict

RIVALS = {"none": "no prompt", "shuffled": "another prompt", "llm": "the LLM reading the prompt itself"}
MOST_KL = 0.5
"""Of the divergence without a prompt"""
Scores = Mapping[str, Mapping[str, Readings]]
"""language -> reading -> its sums"""
Groups = Mapping[str, Sequence[str]]
"""language -> the group of each of its prompts"""


def gaps(own: Mapping[str, Readings], groups: Sequence[str]) -> dict[str, Estimate]:
    """rival -> nats per token by which the stack is better (below 0) or worse, with the bootstrap's 95%."""
    stack = own["model"]
    return {rival: estimate(stack.nll - own[rival].nll, stack.num_tokens, groups) for rival in RIVALS}


def nll_of(own: Readings) -> float:
    """Nats per token."""
    return float(own.nll.sum() / own.num_tokens.sum())


def kl_of(own: Readings) -> float:
    """Nats per token."""
    return float(own.kl.sum() / own.num_tokens.sum())


def kl_share(scores: Scores, languages: Sequence[str]) -> float:
    """The stack's divergence over that without a prompt, each the mean over languages."""
    stack, none = (np.mean([kl_of(scores[code][name]) for code in languages]) for name in ("model", "none"))
    return float(stack / none)


def decide(scores: Scores, groups: Groups, languages: Sequence[str], *, is_smoke: bool = False) -> Verdict:
    """The verdict over the languages that the encoder knows."""
    share = kl_share(scores, languages)
    figures = f"divergence {share:.2f} of that without a prompt, mean of {len(languages)} languages"
    if is_smoke:
        return Verdict("not judged", f"not judged: a smoke run shows that the steps work, and nothing else ({figures})")
    against = []
    for code in languages:
        worse = [RIVALS[rival] for rival, gap in gaps(scores[code], groups[code]).items() if gap.high >= 0]
        if worse:
            against.append(f"{code} is not below {' and '.join(worse)} beyond chance")
    if share > MOST_KL:
        against.append(f"the divergence is above {MOST_KL:g} of that without a prompt")
    if against:
        return Verdict("not confirmed", f"not confirmed: {'; '.join(against)} ({figures})")
    return Verdict("confirmed", f"confirmed: below every rival in every language ({figures})")
