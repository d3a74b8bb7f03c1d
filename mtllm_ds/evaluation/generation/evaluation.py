"""A model beside its untouched LLM on held-out prompts of one language: what responses are worth to each, and what each writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.generation.heldout import Heldout, others
from mtllm_ds.evaluation.generation.readings import Readings, readings
from mtllm_ds.evaluation.generation.texts import answer_figures
from mtllm_ds.languages import ENGLISH
from mtllm_ds.models.speaker import Speaker
from mtllm_ds.models.writer import ReadPrompt
from mtllm_ds.transfer_sets.sdrrl.filters import LanguageCheck

Row = dict[str, Any]
Encode = Callable[[Sequence[str], str], np.ndarray]
"""(texts, language) -> (N, d)"""
READINGS = {
    "model": "model, the prompt",
    "shuffled": "model, another prompt",
    "llm": "LLM, the prompt itself",
    "none": "LLM, no prompt",
    "english": "LLM, the teacher's prompt",
}
"""Who reads what before the response; the last is the teacher. Where all prompts are of one group, none is another's."""
SIDES = {"model": "model", "llm": "LLM itself"}
"""Who answers"""


@dataclass(frozen=True, kw_only=True)
class HowAnswered:
    """What does not depend on the language."""

    max_new_tokens: int
    answers_in: str | None
    """The language in which answers are expected; None for the prompt's"""
    batch_size: int
    check: LanguageCheck | None
    """None: their language is not looked at"""
    encode: Encode | None
    """None: no similarity is measured"""


class GenerationEvaluation:
    """Keeps what the teacher answers, as languages share its prompts; its states go with the language, as memory is short."""

    def __init__(self, model: Speaker, untouched: Speaker, how: HowAnswered) -> None:
        """
        Args:
            model: what was trained
            untouched: the LLM without that, also the teacher; of the same vocabulary
        """
        self._model, self._untouched, self._how = model, untouched, how
        self._written: dict[tuple[int, ...], tuple[str, list[int]]] = {}

    def rows(self, items: Sequence[Heldout]) -> list[Row]:
        """What was found of each prompt of one language: `nll` and `kl` (sums over `num_tokens` of the response) by reading, and
        `answers` by side, greedy.

        Raises:
            UserError: a prompt cannot be read, or leaves no room for the response.
        """
        language, places = items[0].language, [item.place for item in items]
        heard = self._model.read([item.prompt for item in items], language, places=places)
        itself = self._untouched.read([item.prompt for item in items], None, places=places)
        english = self._untouched.read([item.teacher_prompt for item in items], None, places=places)
        responses = self._responses(items, english)
        found = self._readings(items, heard, itself, english, [ids for _, ids in responses])
        answers = {"model": self._greedy(self._model, heard), "llm": self._greedy(self._untouched, itself)}
        return [
            {
                "id": item.id, "group": item.group, "language": language, "prompt": item.prompt,
                "teacher_prompt": item.teacher_prompt, "response": responses[place][0],
                "reference": self._reference(item, responses[place][0]), "num_tokens": len(responses[place][1]),
                "nll": {name: float(own.nll[place]) for name, own in found.items()},
                "kl": {name: float(own.kl[place]) for name, own in found.items()},
                "answers": {side: texts[place][0] for side, texts in answers.items()},
            }
            for place, item in enumerate(items)
        ]  # fmt: skip

    def figures(self, rows: Sequence[Row]) -> dict[str, dict[str, float]]:
        """What the answers of each side are like."""
        language, encode = self._how.answers_in or rows[0]["language"], self._how.encode
        references = [row["reference"] for row in rows]
        texts = {side: [row["answers"][side] for row in rows] for side in SIDES}
        vectors = {}
        if encode is not None:
            told: dict[str, Sequence[str | None]] = {**texts, "teacher": references}
            # An empty answer is near to nothing; an encoder wants a text.
            vectors = {name: encode([text or "-" for text in own], language) for name, own in told.items()}
        return {
            side: answer_figures(
                answers, references, language, self._how.check,
                {"answers": vectors[side], "teacher": vectors["teacher"]} if vectors else None,
            )
            for side, answers in texts.items()
        }  # fmt: skip

    def _reference(self, item: Heldout, response: str) -> str | None:
        """What answers are compared with: the teacher's own answer is English."""
        if item.reference is not None or item.response is not None:
            return item.reference if item.reference is not None else item.response
        return response if (self._how.answers_in or item.language) == ENGLISH else None

    def _responses(self, items: Sequence[Heldout], english: Sequence[ReadPrompt]) -> list[tuple[str, list[int]]]:
        """Text and ids, as given or as the teacher answers."""
        asked = {tuple(read.llm): read for item, read in zip(items, english, strict=True) if item.response is None}
        missing = [read for key, read in asked.items() if key not in self._written]
        self._written |= {
            tuple(read.llm): written
            for read, written in zip(missing, self._greedy(self._untouched, missing), strict=True)
        }
        return [
            self._written[tuple(read.llm)]
            if item.response is None
            else (item.response, self._untouched.response_ids(item.response))
            for item, read in zip(items, english, strict=True)
        ]

    def _greedy(self, speaker: Speaker, prompts: Sequence[ReadPrompt]) -> list[tuple[str, list[int]]]:
        options = speaker.options(prompts, self._how.max_new_tokens, do_sample=False)
        written = speaker.write(prompts, [0] * len(prompts), options, self._how.batch_size)
        return [(one.text.strip(), one.ids) for one in written]

    def _readings(
        self,
        items: Sequence[Heldout],
        heard: Sequence[ReadPrompt],
        itself: Sequence[ReadPrompt],
        english: Sequence[ReadPrompt],
        responses: Sequence[Sequence[int]],
    ) -> dict[str, Readings]:
        read: dict[str, tuple[Speaker, Sequence[ReadPrompt]]] = {
            "model": (self._model, heard),
            "llm": (self._untouched, itself),
            "none": (self._untouched, [self._bare(item) for item in items]),
        }
        groups = [item.group for item in items]
        if len(set(groups)) > 1:
            read["shuffled"] = self._model, [heard[place] for place in others(groups)]
        for speaker, prompts in [*read.values(), (self._untouched, english)]:
            _require_room(speaker, prompts, responses)
        known = self._untouched.states_before(english, responses, self._how.batch_size)
        found: dict[str, Readings] = {}
        for name, (speaker, prompts) in read.items():
            found[name] = readings(
                speaker,
                speaker.states_before(prompts, responses, self._how.batch_size),
                responses,
                self._untouched,
                known,
            )
        found["english"] = readings(self._untouched, known, responses, self._untouched, known)
        return found

    def _bare(self, item: Heldout) -> ReadPrompt:
        if item.bare_prompt is None:
            return self._untouched.read_nothing(None)
        return self._untouched.read([item.bare_prompt], None, places=[item.place])[0]


def _require_room(speaker: Speaker, prompts: Sequence[ReadPrompt], responses: Sequence[Sequence[int]]) -> None:
    most = speaker.num_positions
    for prompt, response in zip(prompts, responses, strict=True):
        length = len(prompt) + len(response)
        if most is not None and length > most:
            raise UserError(
                f"{prompt.where}: {length} tokens with its response are more than the LLM's {most} positions; shorten it"
            )
