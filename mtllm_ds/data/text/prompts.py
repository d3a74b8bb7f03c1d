"""Prompts as they are read before a response is written: a text, or messages of a chat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mtllm_ds.data.text.chat import DialogueTokenizer, Messages
from mtllm_ds.data.text.tokenization import TextTokenizer
from mtllm_ds.errors import UserError

Prompt = str | Messages
_ROLES = ("system", "user", "assistant")


def said(prompt: Prompt) -> Prompt:
    """A text as what a user says."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


class PromptReader:
    """Ids of prompts for the side that reads them.

    An encoder reads the contents of messages one after the other, those of the system left out, as in shards of dialogues; an LLM
    reads them by chat template, and where it learnt dialogues also a text, as what a user says. Nothing is ever cut.
    """

    def __init__(self, tokenizer: TextTokenizer, chat: DialogueTokenizer | None, *, learnt_dialogues: bool) -> None:
        """`chat`: how an LLM reads messages; None where nothing says so."""
        self._tokenizer = tokenizer
        self._chat = chat
        self._learnt_dialogues = learnt_dialogues

    def __call__(self, prompt: Any, language: str | None, where: str) -> list[int]:
        """Ids of one prompt; `where` names it in errors.

        Raises:
            UserError: it is empty, no prompt, longer than an encoder takes, or its language has no tag.
        """
        tokenizer = self._tokenizer
        is_encoder = tokenizer.spec.side == "encoder"
        if language is None and is_encoder and tokenizer.language_codes:
            raise UserError(f"{where}: needs a language tag; give the prompt's language, such as 'eng_Latn'")
        if isinstance(prompt, str) and self._learnt_dialogues and not is_encoder:
            prompt = said(prompt)
        if isinstance(prompt, str):
            ids = tokenizer([_text(prompt, where)], language)
        elif is_encoder:
            ids = tokenizer(_turns(prompt, where), language)
        else:
            ids = self._by_template(_messages(prompt, where), where)
        if is_encoder and len(ids) > tokenizer.spec.max_length:
            raise UserError(
                f"{where}: {len(ids)} tokens, the encoder takes {tokenizer.spec.max_length} (its max_length); shorten it"
            )
        return ids

    def _by_template(self, messages: Messages, where: str) -> list[int]:
        if self._chat is None:
            raise UserError(
                f"{where}: messages need a chat template, and '{self._tokenizer.spec.name}' has none; give chat_template, or a text"
            )
        if self._chat.spells_special([message["content"] for message in messages]):
            raise UserError(f"{where}: spells a special token of the chat template; leave that out")
        return self._chat.prompt_ids(messages)


def _turns(prompt: Any, where: str) -> list[str]:
    """What an encoder reads of messages."""
    turns = [message["content"] for message in _messages(prompt, where) if message["role"] != "system"]
    if not turns:
        raise UserError(f"{where}: no message of a user; add one")
    return turns


def _messages(prompt: Any, where: str) -> Messages:
    listed = list(prompt) if isinstance(prompt, Sequence) and not isinstance(prompt, bytes) else []
    if not listed or not all(isinstance(one, dict) and one.get("role") in _ROLES for one in listed):
        raise UserError(
            f"{where}: neither a text nor a list of messages {{role, content}} with roles {', '.join(_ROLES)}; mend it"
        )
    if listed[-1]["role"] == "assistant":
        raise UserError(f"{where}: ends with the assistant, whose turn is to be written; leave its last message out")
    return [{"role": one["role"], "content": _text(one.get("content"), where)} for one in listed]


def _text(text: Any, where: str) -> str:
    if not isinstance(text, str):
        raise UserError(
            f"{where}: not a string but {f'{type(text).__name__} {text!r}'[:60]}; leave it out or decode it"
        )
    if not text.strip():
        raise UserError(f"{where}: empty; give it text, or leave it out")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: holds half a character (a lone surrogate); mend or remove it") from error
    return text
