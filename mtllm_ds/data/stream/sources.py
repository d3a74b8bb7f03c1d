"""What is mixed: the *sources*, each a language of one of the data sets.

Data sets give samples by their weights, and within each its languages by the mixing rule. A source has epochs of its own; a cell is
of one source. With a single data set the sources are its languages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtllm_ds.config.data import MixingRule, MixingSettings
from mtllm_ds.data.shards.joined import first_blocks, parts_of
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.stream.epochs import LanguageSamples
from mtllm_ds.data.stream.mixing import LanguageShares, check_named, language_shares, never_drawn, to_integers
from mtllm_ds.errors import UserError
from mtllm_ds.languages import check_language


@dataclass(frozen=True)
class Sources:
    """Which they are, and what share each has."""

    part: np.ndarray
    """(sources,) position of the data set"""
    language: np.ndarray
    """(sources,) position in the manifest's languages"""
    shares: LanguageShares
    """By source"""
    later: tuple[tuple[int, LanguageShares], ...]
    """First step and shares of each later phase; epochs are the same in all"""


def mixed_sources(manifest: Manifest, mixing: MixingSettings, seed: int) -> Sources:
    """The sources of a data set, or of several that were joined.

    Raises:
        UserError: as `language_shares`; or a language has no byte premium, or the rule has nothing to mix within any set.
    """
    parts = parts_of(manifest)
    _check_it_mixes(mixing, [part for part, _ in parts])
    sizes = [_scaled_bytes(part, mixing.byte_premiums) if mixing.byte_premiums else None for part, _ in parts]

    def shares_by(rule: MixingRule) -> LanguageShares:
        found = [
            language_shares(
                _rule_within(rule, part, weight / sum(weight for _, weight in parts), manifest.languages)
                if len(parts) > 1
                else rule,
                part.languages,
                part.index.language,
                np.diff(part.first_row),
                seed,
                size,
            )
            for (part, weight), size in zip(parts, sizes, strict=True)
        ]
        return found[0] if len(parts) == 1 else _joined(found, parts)

    return Sources(
        part=np.repeat(np.arange(len(parts)), [len(part.languages) for part, _ in parts]),
        language=np.array([manifest.languages.index(code) for part, _ in parts for code in part.languages]),
        shares=shares_by(mixing),
        later=tuple((phase.from_step, shares_by(phase)) for phase in mixing.phases),
    )


def _check_it_mixes(mixing: MixingSettings, parts: Sequence[Manifest]) -> None:
    """A rule holds within each set: of sets of one language each, only their weights say who is read how often."""
    rules = {rule.rule for rule in (mixing, *mixing.phases) if rule.samples_per_language is None}
    without_effect = sorted(rules & {"balanced", "temperature"})
    num_languages = len({code for part in parts for code in part.languages})
    if num_languages > 1 and without_effect and all(len(part.languages) == 1 for part in parts):
        raise UserError(
            f"data.mixing.rule={without_effect[0]}: has no effect where each data set holds one language, as it mixes languages "
            "within a set; merge the sets (`mtllm-ds prepare merge`), or remove the rule and give the sets weights"
        )


def _scaled_bytes(part: Manifest, premiums: Mapping[str, float]) -> np.ndarray:
    """(languages,) mean bytes of a sample's text, divided by the language's premium."""
    known = {check_language(code): premium for code, premium in premiums.items()}
    if missing := [code for code in part.languages if code not in known]:
        raise UserError(f"data.mixing.byte_premiums: has none for '{missing[0]}'; add it (English has 1)")
    found = []
    for code in part.languages:
        counts = part.statistics[code]
        found.append(counts["text_bytes"] / max(1, counts["samples"]) / known[code])
    if not all(found):
        raise UserError(
            f"data.mixing.byte_premiums: '{part.storage.root}' does not say how many bytes its text has; prepare it anew"
        )
    return np.array(found)


def _rule_within(mixing: MixingRule, part: Manifest, share: float, languages: tuple[str, ...]) -> MixingRule:
    """The rule for the languages of one of several data sets."""
    if mixing.rule == "unimax":
        assert mixing.budget_samples is not None
        return mixing.model_copy(update={"budget_samples": max(1, round(share * mixing.budget_samples))})
    if mixing.rule == "explicit":
        named = check_named(mixing.weights, languages)
        own = {code: weight for code, weight in named.items() if code in part.languages}
        if not any(own.values()):
            raise UserError(
                f"data.mixing.weights: no language of '{part.storage.root}' has any; name one, or leave that data set out"
            )
        return mixing.model_copy(update={"weights": own})
    return mixing


def _joined(found: list[LanguageShares], parts: tuple[tuple[Manifest, float], ...]) -> LanguageShares:
    first = first_blocks(part for part, _ in parts)
    weights = np.concatenate([weight * shares.shares for shares, (_, weight) in zip(found, parts, strict=True)])
    epochs = [
        LanguageSamples(epoch.blocks + offset, epoch.sizes)
        for shares, offset in zip(found, first[:-1].tolist(), strict=True)
        for epoch in shares.epochs
    ]
    integers = to_integers(weights)
    names = [(part.storage.root, code) for part, _ in parts for code in part.languages]
    given = np.concatenate([shares.weights for shares in found])
    for (root, code), share, before in zip(names, integers, given, strict=True):
        if before and not share:
            raise never_drawn(f"data.train: '{code}' of {root}", "raise the weight of that set, or leave it out")
    return LanguageShares(integers, epochs)
