"""Dialogues in JSON lines or Parquet: who is asked what, and the response.

    {"language": "spa_Latn", "prompt": "...", "teacher_prompt": "...", "response": "...", "weight": 1.0, "pair_type": "..."}

`messages` and `teacher_messages` (lists of {"role", "content"}) may stand in place of prompts; without one of the teacher's it
reads what the student reads. A plain text may also be {"language", "text"}, whatever other fields it has: its first part is the
prompt, the rest the response.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mtllm_ds.data.text.chat import Messages
from mtllm_ds.data.writing.sources import Document, InputFile, OnError, SourceReader, text_of
from mtllm_ds.errors import UserError
from mtllm_ds.languages import check_language
from mtllm_ds.text_files import BadLineError

ROLES = ("system", "user", "assistant")
_TEXTS = ("prompt", "messages", "teacher_prompt", "teacher_messages", "response")
FIELDS = (*_TEXTS, "language", "text", "pair_type", "weight", "id", "history")
"""Others are refused: a misspelt one would change what is trained. `id` and `history` (any value) say where a record comes from."""


@dataclass(frozen=True)
class Dialogue(Document):
    """One record; `segments` are all its texts."""

    messages: Messages = ()
    """What the student reads"""
    teacher_messages: Messages = ()
    response: str | None = None
    """None: the one message is a text that is to be split"""
    weight: float = 1.0
    pair_type: str | None = field(default=None)
    record: Mapping[str, Any] = field(default_factory=dict)
    """Where it comes from (`place`, and what it says by `id` and `history`), where that is kept"""


def dialogue_input(path: str, language: str | None = None) -> InputFile:
    """A file of dialogues, all of one language or each with its own in the field `language`."""
    own = None if language else "language"
    return InputFile(path=path, language=language, language_field=own, text_field="response")


class DialogueReader(SourceReader):
    """Dialogues of one file, in order; `plain` texts keep the blanks around them, and only with `weights` may records have one."""

    def __init__(
        self,
        source: InputFile,
        on_error: OnError = "fail",
        *,
        plain: bool = False,
        weights: bool = False,
        keep_records: bool = False,
    ) -> None:
        super().__init__(source, on_error)
        self._plain = plain
        self._weights = weights
        self._keeps = ("id", "history") if keep_records else None
        if self.format == "tsv":
            raise UserError(f"--input={source.path}: dialogues are JSON lines or Parquet; write them as one of these")

    def _columns(self) -> None:
        return None

    def _document(self, place: str, row: dict[str, Any]) -> Dialogue:
        row = {name: value for name, value in row.items() if value is not None}
        language = self._language(place, row)
        unknown = sorted(set(row) - set(FIELDS)) if "text" not in row else []
        if unknown:
            raise BadLineError(
                place, "unknown_field", f"no field '{unknown[0]}' is known; there are {', '.join(FIELDS)}"
            )
        weight = self._weight(place, row.get("weight", 1.0), "weight" in row)
        if "text" in row:
            return self._text_alone(place, row, language, weight)
        messages = self._messages(place, row, "prompt", "messages")
        teacher = messages
        if "teacher_prompt" in row or "teacher_messages" in row:
            teacher = self._messages(place, row, "teacher_prompt", "teacher_messages")
        if "response" not in row:
            raise BadLineError(place, "no_field", "no field 'response'; add the answer")
        response = self._text(place, "response", row["response"])
        texts = tuple(message["content"] for message in (*messages, *teacher))
        return Dialogue(
            (*texts, response), language, place=place, messages=messages, teacher_messages=teacher, response=response,
            weight=weight, pair_type=row.get("pair_type"), record=self._record(place, row),
        )  # fmt: skip

    def _record(self, place: str, row: Mapping[str, Any]) -> dict[str, Any]:
        if self._keeps is None:
            return {}
        return {"place": place} | {name: row[name] for name in self._keeps if name in row}

    def _require(self, *_: Any, **__: Any) -> None:
        """Which fields a record needs depends on those that it has."""

    def _language(self, place: str, row: Mapping[str, Any]) -> str:
        named = self.source.language
        if "language" not in row and named is None:
            raise BadLineError(place, "no_field", "no field 'language'; add it, or name the input as CODE=FILE")
        try:
            own = check_language(str(row.get("language", named)))
        except UserError as error:
            raise BadLineError(place, "unknown_language", str(error)) from error
        if named is not None and own != named:
            raise BadLineError(
                place, "unknown_language", f"its language is {own}, and the input's is {named}; mend one of them"
            )
        return own

    def _text_alone(self, place: str, row: Mapping[str, Any], language: str, weight: float) -> Dialogue:
        others = [name for name in _TEXTS if name in row]
        if others or not self._plain:
            mend = f"leave out '{others[0]}'" if others else "give --plain, or a prompt and a response"
            raise BadLineError(place, "no_field", f"a 'text' is split into prompt and response itself; {mend}")
        messages = ({"role": "user", "content": text_of(place, "text", row["text"])},)
        return Dialogue(
            (messages[0]["content"],), language, place=place, messages=messages, teacher_messages=messages, weight=weight,
            pair_type=row.get("pair_type"), record=self._record(place, row),
        )  # fmt: skip

    def _messages(self, place: str, row: Mapping[str, Any], text: str, several: str) -> Messages:
        if (text in row) == (several in row):
            raise BadLineError(
                place, "no_field", f"holds both of '{text}' and '{several}', or neither; give one of them"
            )
        if text in row:
            return ({"role": "user", "content": self._text(place, text, row[text])},)
        given = row[several]
        if self._plain:
            raise BadLineError(
                place, "no_field", f"'{several}' need a chat template; give '{text}', or leave --plain out"
            )
        is_list = isinstance(given, list) and given and all(isinstance(message, dict) for message in given)
        if not is_list or not all(message.get("role") in ROLES for message in given):
            raise BadLineError(
                place, "no_text", f"'{several}' is no list of {{role, content}} with roles {', '.join(ROLES)}; mend it"
            )
        if given[-1]["role"] == "assistant":
            raise BadLineError(place, "no_text", f"'{several}' end with the assistant; its last turn is the 'response'")
        return tuple(
            {"role": message["role"], "content": self._text(place, several, message.get("content"))}
            for message in given
        )

    def _text(self, place: str, name: str, text: Any) -> str:
        stripped = text_of(place, name, text)
        return text if self._plain and stripped else stripped

    def _weight(self, place: str, value: Any, given: bool) -> float:
        if given and not self._weights:
            raise BadLineError(
                place, "unknown_field", "it has a weight, which would be lost; give --weights, or leave it out"
            )
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise BadLineError(place, "bad_weight", f"weight={value!r}: no number above 0; mend it")
        return float(value)
