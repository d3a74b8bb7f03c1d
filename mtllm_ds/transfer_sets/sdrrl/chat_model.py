"""The chat model as a writer: batches of texts after prompts, on any number of ranks, kept batch by batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch

from mtllm_ds.cluster.launch import Cluster
from mtllm_ds.config.names import lasting_name, resolve_model_name
from mtllm_ds.data.text.chat import ChatSettings, DialogueTokenizer
from mtllm_ds.data.text.tokenization import TokenizerSpec, load_text_tokenizer, pretrained_tokenizer
from mtllm_ds.draws import seed_of
from mtllm_ds.models.generation import end_ids
from mtllm_ds.models.generation_options import read_options
from mtllm_ds.models.loading import load_config, load_weights, weights_fingerprint
from mtllm_ds.models.writer import Response, Writer, token_rows
from mtllm_ds.transfer_sets.sdrrl.stages import Progress, Row, Stage, write_batches


@dataclass(frozen=True, kw_only=True)
class Generation:
    """How texts are chosen; what it leaves open is the model's own (`generation_config.json`)."""

    max_new_tokens: int
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Drawn are the fewest tokens whose probabilities together reach it."""
    stop: str | None = None
    """Text that ends one beside the end of the turn, and is its last."""

    def options(self) -> dict[str, Any]:
        """For `read_options`."""
        drawn = {"temperature": self.temperature, "top_p": self.top_p} if self.temperature else {}
        stops = {} if self.stop is None else {"stop_strings": [self.stop]}
        return {"do_sample": bool(drawn), **drawn, **stops}


class Job(NamedTuple):
    """One text to write."""

    id: str
    prompt_ids: list[int]


class ChatModel:
    """A frozen chat model with its tokenizer and chat template. Its weights are read when the first text is to be written.

    Args:
        name: hub name, local folder or model that ships

    Raises:
        UserError: it cannot be loaded, or has no chat template.
    """

    def __init__(
        self,
        name: str,
        chat: ChatSettings,
        *,
        revision: str | None,
        trust_remote_code: bool,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        place = resolve_model_name(name)
        self._options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        self.config = load_config(place, revision, trust_remote_code, "--llm")
        self.tokenizer = load_text_tokenizer(TokenizerSpec(name=place, side="llm", **self._options))
        self.chat = DialogueTokenizer(self.tokenizer, chat)
        self._place, self._device, self._dtype = place, device, dtype
        template = f"{self.chat.template}\0{chat.system_prompt}"
        self.made_by: Row = {
            "model": lasting_name(name),
            "weights": weights_fingerprint(place, revision),
            "dtype": str(dtype).removeprefix("torch."),
            "template": f"sha256:{hashlib.sha256(template.encode()).hexdigest()[:16]}",
        }
        """For every record"""

    @property
    def longest(self) -> int:
        """Most tokens that the model reads."""
        return int(getattr(self.config, "max_position_embeddings", 1 << 30))

    @cached_property
    def model(self) -> Any:
        from transformers import AutoModelForCausalLM

        model: Any = load_weights(AutoModelForCausalLM, self._place, "--llm", dtype=self._dtype, **self._options)
        return model.eval().to(self._device)

    def write(self, jobs: Sequence[Job], seed: int, generation: Generation) -> list[Response]:
        """One batch. What is written depends on weights, seed and each job's id and prompt, not on the others."""
        options = read_options(self.model, self._ends, generation.max_new_tokens, generation.options())
        seeds = [seed_of(seed, _number(job.id)) for job in jobs]
        return self._writer.write([job.prompt_ids for job in jobs], seeds, options, batch_size=len(jobs))

    def release(self) -> None:
        """Let go of the weights; they are read again where another text is to be written."""
        for name in ("model", "_writer"):
            self.__dict__.pop(name, None)

    @cached_property
    def _ends(self) -> list[int]:
        return end_ids(self.model, [self.chat.end_id])

    @cached_property
    def _writer(self) -> Writer:
        own = pretrained_tokenizer(self.tokenizer.spec)
        return Writer(self.model, own, token_rows(self.model.get_input_embeddings(), self.tokenizer.pad_id))


def write_jobs(
    jobs: Sequence[Job],
    chat_model: ChatModel,
    stage: Stage,
    cluster: Cluster,
    *,
    seed: int,
    generation: Generation,
    batch_size: int,
    record: Callable[[Job, str, bool], Row],
    progress: Progress,
) -> dict[str, Row]:
    """`write_batches` of what the chat model writes.

    Args:
        record: (job, text, whether it ended by itself) -> what is kept
    """

    def write(batch: Sequence[Job]) -> list[Row]:
        written = chat_model.write(batch, seed, generation)
        return [record(job, one.text.strip(), not one.is_cut) for job, one in zip(batch, written, strict=True)]

    lengths = [len(job.prompt_ids) for job in jobs]
    return write_batches(jobs, lengths, write, stage, cluster, batch_size=batch_size, progress=progress)


def provenance(chat_model: ChatModel, seed: int, generation: Generation) -> Row:
    """What decides a text besides its prompt."""
    return {**chat_model.made_by, "seed": seed, **asdict(generation)}


def _number(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1
