"""Dialogues as an LLM reads them: a prompt by chat template (or plain text), then the response, token by token.

Prompt and response are tokenized apart, as when an answer is generated: student and teacher carry the very same ids of the
response, whatever they read before it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from mtllm_ds.data.text.tokenization import TextTokenizer, pretrained_tokenizer
from mtllm_ds.errors import UserError

Messages = Sequence[Mapping[str, str]]
"""Each with `role` and `content`, as chat templates take them"""

_MARK = "qzjxv"
"""An answer that no template spells."""


@dataclass(frozen=True, kw_only=True)
class ChatSettings:
    """How a dialogue is put into words."""

    plain: bool = False
    """No template: the prompt is text and the response goes on with it."""
    template: str | None = None
    """Jinja template in place of the tokenizer's own."""
    system_prompt: str | None = None
    """Stands first where messages have no system message of their own."""


class DialogueTokenizer:
    """Ids of prompts and responses for an LLM.

    Attributes:
        template: the chat template in use, None for plain text
        end_id: the token that ends a turn (of plain text, a text)
    """

    def __init__(self, tokenizer: TextTokenizer, settings: ChatSettings) -> None:
        self.settings = settings
        self._text = tokenizer
        # One of its own: that of `TextTokenizer` reads special tokens as text, a template means them.
        self._chat = pretrained_tokenizer(tokenizer.spec)
        self._specials = re.compile("|".join(map(re.escape, self._special_tokens())) or "(?!)")
        self.template: str | None = None
        self.end_id: int = self._chat.eos_token_id
        if settings.plain:
            return
        self.template = settings.template or self._chat.chat_template
        if not isinstance(self.template, str):
            raise UserError(
                f"--llm={tokenizer.spec.name}: its tokenizer has no chat template; give --chat-template FILE, or --plain for text"
            )
        self.end_id = self._end_of_turn()

    def prompt_ids(self, messages: Messages) -> list[int]:
        """What is read before the response; of plain text the one message's content.

        Raises:
            UserError: the template refuses the messages.
        """
        if self.settings.plain:
            (message,) = messages
            return self._text.join([self._text.tokenize([message["content"]])[0].ids], None)
        return self._render(self._with_system(messages), add_generation_prompt=True, tokenize=True)

    def response_ids(self, response: str, *, ends: bool = True) -> list[int]:
        """The response, and where it `ends` the token that says so."""
        ids = self._text.continuation(response) if self.settings.plain else self._text.tokenize([response])[0].ids
        return [*ids, *([self.end_id] if ends else ())]

    def user_header_ids(self) -> list[int]:
        """What stands before the first words of a user, the system's turn included: a chat model goes on with what users ask.

        Raises:
            UserError: nothing stands there.
        """
        rendered = self._render(self._with_system([{"role": "user", "content": _MARK}]), tokenize=False)
        header = rendered[: rendered.index(_MARK)] if _MARK in rendered else ""
        if self.settings.plain or not header:
            raise UserError(
                f"chat template of {self._text.spec.name}: has nothing before a user's words, so that no instruction can be "
                "sampled; give instructions, or another template by --chat-template"
            )
        return list(self._chat(header, add_special_tokens=False)["input_ids"])

    def spells_special(self, texts: Sequence[str]) -> bool:
        """Whether a template would take a part of some text for a special token."""
        return not self.settings.plain and any(self._specials.search(text) for text in texts)

    def _with_system(self, messages: Messages) -> list[dict[str, str]]:
        own = [dict(message) for message in messages]
        if self.settings.system_prompt is None or own[0]["role"] == "system":
            return own
        return [{"role": "system", "content": self.settings.system_prompt}, *own]

    def _render(self, messages: Messages, **options: Any) -> Any:
        try:
            return self._chat.apply_chat_template(
                list(messages), chat_template=self.template, return_dict=False, **options
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise UserError(
                f"chat template of {self._text.spec.name}: refuses the messages ({' '.join(str(error).split())[:200]}); "
                "mend them, or give another by --chat-template"
            ) from error

    def _end_of_turn(self) -> int:
        """The first special token behind an answer; the end of text where the template has none."""
        asked = self._with_system([{"role": "user", "content": "a"}])
        answered = self._render([*asked, {"role": "assistant", "content": _MARK}], tokenize=False)
        if _MARK not in answered:
            raise UserError(
                f"chat template of {self._text.spec.name}: shows no answer of an assistant; give another by --chat-template"
            )
        found = self._specials.search(answered, answered.rindex(_MARK))
        end = self._chat.eos_token_id if found is None else self._chat.convert_tokens_to_ids(found[0])
        if end is None:
            raise UserError(
                f"--llm={self._text.spec.name}: neither its chat template nor its tokenizer has a token that ends a turn; "
                "give another by --chat-template"
            )
        return int(end)

    def _special_tokens(self) -> list[str]:
        added = [str(token) for token in self._chat.added_tokens_decoder.values() if token.special]
        return sorted({*self._chat.all_special_tokens, *added}, key=len, reverse=True)
