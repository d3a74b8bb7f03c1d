"""Stage 4: pairs of question and answer across languages, as many of each type as the weights say.

| type | student reads | response |
|---|---|---|
| `q_en_a_en` | question | answer |
| `q_t_a_t` | translated question | translated answer |
| `q_t_a_en` | translated question | answer |
| `q_en_a_t` | question | translated answer |
| `code_switched` | question with a share of its words replaced by a lexicon's | translated answer |
| `partially_translated` | question of which half the sentences (or half its one sentence) are translated | translated answer |
| `completion` | "Continue this text in LANGUAGE:" and the first half of a text | the other half |
| `translation` | "Translate into LANGUAGE:" and a sentence of parallel text, either way in turn | its translation |

What comes from a question carries the English question for the teacher, and where `teacher_sees` says so the request to answer in
the response's language and the response itself. How SDRRL's authors mix these is not published: the weights are a setting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Literal

from mtllm_ds.draws import permutation
from mtllm_ds.errors import UserError
from mtllm_ds.languages import ENGLISH, FLORES_200, has_word_spaces
from mtllm_ds.transfer_sets.sdrrl.code_switching import WORD, switched
from mtllm_ds.transfer_sets.sdrrl.stages import Row

QUESTION_TYPES = ("q_en_a_en", "q_t_a_t", "q_t_a_en", "q_en_a_t", "code_switched", "partially_translated")
TEXT_TYPES = ("completion", "translation")
PAIR_TYPES = (*QUESTION_TYPES, *TEXT_TYPES)
DEFAULT_WEIGHTS = {"q_t_a_t": 4.0, "q_en_a_en": 2.0, "q_t_a_en": 1.0, "q_en_a_t": 1.0, "partially_translated": 1.0}
TeacherSees = Literal["question", "language", "answer"]
_TEACHER_READS: dict[TeacherSees, str] = {
    "question": "{question}",
    "language": "{question}\n\nAnswer in {language}.",
    "answer": "{question}\n\nHere is an answer:\n{answer}\n\nAnswer the question in {language}, in your own words.",
}
_FEWEST_WORDS, _FEWEST_CHARACTERS = 8, 24
"""Of a text that is completed; characters in scripts without blanks between words."""


@dataclass(frozen=True)
class Material:
    """What pairs in one language are made of."""

    translations: Mapping[str, Row]
    """Of questions and answers, by instruction"""
    lexicon: Mapping[str, str] = field(default_factory=dict)
    parallel: Sequence[tuple[str, str]] = ()
    """(English, text) written or translated by people"""
    name: str = ""
    """The language in English"""


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """How many of which."""

    weights: Mapping[str, float]
    """By type; a type without one is left out."""
    total: int | None = None
    """All pairs together; None: as many as the rarest type allows"""
    code_switch_ratio: float = 0.2
    """Share of the words known to the lexicon that are replaced."""
    teacher_sees: TeacherSees = "question"
    """What a teacher reads in English: the question; with the language to answer in; and with the response, whosever it is."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if name not in PAIR_TYPES:
                raise UserError(f"--pairs {name}={weight:g}: no such type; there are {', '.join(PAIR_TYPES)}")
            if not 0 <= weight < float("inf"):
                raise UserError(f"--pairs {name}={weight:g}: out of range; give a weight of 0 or more")
        if not any(self.weights.values()):
            raise UserError("--pairs: every weight is 0; give one type a weight")
        if not 0 <= self.code_switch_ratio <= 1:
            raise UserError(f"--code-switch-ratio={self.code_switch_ratio:g}: out of range; choose a share from 0 to 1")

    @property
    def types(self) -> list[str]:
        """With a weight above 0, in the order of `PAIR_TYPES`."""
        return [name for name in PAIR_TYPES if self.weights.get(name, 0) > 0]


Cell = tuple[str, str]
"""(type, language)"""
Maker = Callable[[], Row]


def make_pairs(
    answers: Sequence[Row], material: Mapping[str, Material], settings: PairSettings
) -> tuple[list[Row], dict[Cell, int]]:
    """Dialogues for `prepare dialogues` in a drawn order, and how many of each type and language.

    Args:
        answers: questions and answers in English that are kept
        material: by language

    Raises:
        UserError: a type cannot be made, or not as often as `settings.total` wants.
    """
    pools = {cell: list(_candidates(cell, answers, material, settings)) for cell in _cells(settings, list(material))}
    counts = allotted({cell: len(pool) for cell, pool in pools.items()}, settings)
    made: list[Row] = []
    for (name, language), count in counts.items():
        pool = pools[name, language]
        order = permutation(len(pool), settings.seed, PAIR_TYPES.index(name), FLORES_200.index(language))
        made += [pool[int(place)]() for place in order[:count]]
    return [made[int(place)] for place in permutation(len(made), settings.seed, len(PAIR_TYPES))], counts


def with_history(rows: Sequence[Row], stages: Mapping[str, Sequence[Row]]) -> list[Row]:
    """Dialogues whose `history` holds what they were made of: by name of `stages`, the row that their instruction has there."""
    known = {name: {row["id"]: row for row in own} for name, own in stages.items()}
    found = []
    for row in rows:
        link = row["history"]
        names = ("instructions", "answers", f"translations.{link['target']}") if "instruction" in link else ()
        made_of = {
            name: known[name][link["instruction"]] for name in names if link.get("instruction") in known.get(name, {})
        }
        found.append(row | {"history": link | ({"made_of": made_of} if made_of else {})})
    return found


def allotted(available: Mapping[Cell, int], settings: PairSettings) -> dict[Cell, int]:
    """Pairs of each cell in proportion to the weights, by largest remainder; a type's weight is shared evenly by its languages."""
    languages_of = {name: sum(cell[0] == name for cell in available) for name in settings.types}
    raw = {cell: Fraction(settings.weights[cell[0]]) / languages_of[cell[0]] for cell in available}
    shares = {cell: weight / sum(raw.values()) for cell, weight in raw.items()}
    for (name, language), count in available.items():
        if not count:
            raise UserError(
                f"--pairs {name}: nothing in {language} it could be made of; give more text, or leave it out"
            )
    total = settings.total
    if total is None:
        total = min(int(count / shares[cell]) for cell, count in available.items())
        while any(count > available[cell] for cell, count in _by_largest_remainder(shares, total).items()):
            total -= 1
    counts = _by_largest_remainder(shares, total)
    for (name, language), count in counts.items():
        if count > available[name, language]:
            raise UserError(
                f"--num-pairs={total}: that is {count} of {name} in {language}, and {available[name, language]} can be made; "
                f"ask for fewer, or give {name} less weight"
            )
    return counts


def _by_largest_remainder(shares: Mapping[Cell, Fraction], total: int) -> dict[Cell, int]:
    counts = {cell: int(share * total) for cell, share in shares.items()}
    owed = sorted(shares, key=lambda cell: (counts[cell] - shares[cell] * total, cell))
    for cell in owed[: total - sum(counts.values())]:
        counts[cell] += 1
    return counts


def _cells(settings: PairSettings, languages: Sequence[str]) -> list[Cell]:
    return [
        (name, language) for name in settings.types for language in ([ENGLISH] if name == "q_en_a_en" else languages)
    ]


def _candidates(
    cell: Cell, answers: Sequence[Row], material: Mapping[str, Material], settings: PairSettings
) -> Iterator[Maker]:
    """What makes each pair that a cell could have."""
    name, language = cell
    if name == "q_en_a_en":
        yield from (
            partial(_pair, cell, row, row["prompt"], row["response"], {}, "English", settings) for row in answers
        )
        return
    own = material[language]
    if name in TEXT_TYPES:
        make = _completion if name == "completion" else _translation
        for number, (english, text) in enumerate(own.parallel):
            if name == "translation" or _is_long_enough(text, language):
                yield partial(make, cell, number, english, text, own.name)
        return
    for row in answers:
        found = own.translations.get(row["id"])
        if found is None:
            continue
        if name == "code_switched" and not any(word.lower() in own.lexicon for word in WORD.findall(row["prompt"])):
            continue
        if name == "partially_translated" and len(found["parts"]) < 2:
            continue
        yield partial(_question_pair, cell, row, found, own, settings)


def _question_pair(cell: Cell, row: Row, found: Row, own: Material, settings: PairSettings) -> Row:
    name, language = cell
    question, answer = row["prompt"], row["response"]
    how: Row = {}
    prompt, response = found["prompt"], found["response"]
    key = (settings.seed, int(row["id"], 16), FLORES_200.index(language))
    if name == "q_t_a_en":
        response = answer
    elif name == "q_en_a_t":
        prompt = question
    elif name == "code_switched":
        prompt = switched(question, own.lexicon, settings.code_switch_ratio, *key)
        how = {"ratio": settings.code_switch_ratio}
    elif name == "partially_translated":
        parts = found["parts"]
        order = permutation(len(parts), *key)
        chosen = {int(place) for place in order[: max(1, len(parts) // 2)]}
        prompt = "".join(
            gap + (text if place in chosen else english) for place, (gap, english, text) in enumerate(parts)
        )
        how = {"translated_parts": sorted(chosen)}
    return _pair(cell, row, prompt, response, how, "English" if name == "q_t_a_en" else own.name, settings)


def _pair(
    cell: Cell, answer: Row, prompt: str, response: str, how: Row, answered_in: str, settings: PairSettings
) -> Row:
    name, language = cell
    instruction, reading = answer["id"], _TEACHER_READS[settings.teacher_sees]
    seen = reading.format(question=answer["prompt"], language=answered_in, answer=response)
    reads_english = name in ("q_en_a_en", "q_en_a_t")
    return {
        "id": f"{name}-{language}-{instruction}",
        "language": ENGLISH if reads_english else language,
        "prompt": prompt,
        **({} if prompt == seen else {"teacher_prompt": seen}),
        "response": response,
        "pair_type": name,
        "history": {"instruction": instruction, "target": language, **how},
    }


def _is_long_enough(text: str, language: str) -> bool:
    return len(text.split()) >= _FEWEST_WORDS if has_word_spaces(language) else len(text) >= _FEWEST_CHARACTERS


def halves(text: str, language: str) -> tuple[str, str]:
    """A text parted near its middle, between two words where the script has blanks."""
    blanks = [at for at in (text.find(" ", len(text) // 2), text.rfind(" ")) if at > 0]
    place = blanks[0] if blanks and has_word_spaces(language) else len(text) // 2
    return text[:place], text[place:].strip()


def request_to_continue(beginning: str, language_name: str) -> str:
    """The prompt of a completion."""
    return f"Continue this text in {language_name}:\n{beginning}"


def _completion(cell: Cell, number: int, english: str, text: str, language_name: str) -> Row:
    beginning, rest = halves(text, cell[1])
    return {
        "id": f"completion-{cell[1]}-{number:07d}",
        "language": cell[1],
        "prompt": request_to_continue(beginning, language_name),
        "response": rest,
        "pair_type": "completion",
        "history": {"parallel": number, "target": cell[1], "english": english, "text": text},
    }


def _translation(cell: Cell, number: int, english: str, text: str, language_name: str) -> Row:
    into = number % 2 == 0
    return {
        "id": f"translation-{cell[1]}-{number:07d}",
        "language": ENGLISH if into else cell[1],
        "prompt": f"Translate into {language_name if into else 'English'}:\n{english if into else text}",
        "response": text if into else english,
        "pair_type": "translation",
        "history": {"parallel": number, "target": cell[1], "english": english, "text": text},
    }
