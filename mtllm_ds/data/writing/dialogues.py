"""Shards of dialogues: what the student reads, what the teacher reads, and the response that both go on with.

    encoder_ids          the student's prompt, where an MT encoder reads it
    llm_ids              what the teacher reads (by chat template), then the response
    response_start       (rows,) where the response begins in `llm_ids`
    student_prompt_ids   ragged: the student's prompt as the LLM reads it; before the same response
    sample_weight        (rows,) where a record has a weight

A prompt is never cut: a record whose prompt leaves no room for a response, or is longer than the encoder takes, is left out and
counted (`long_prompt`). A response is cut where the LLM's side is full, for student and teacher at the same token, and then lacks
its last token, the end of the turn.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from mtllm_ds.data.columns import (
    ENCODER_IDS,
    LLM_IDS,
    RECORD,
    RESPONSE_START,
    SAMPLE_WEIGHT,
    STUDENT_PROMPT_IDS,
)
from mtllm_ds.data.shards.blocks import Block, Ragged, ids_dtype
from mtllm_ds.data.shards.manifest import ChatEntry, Manifest
from mtllm_ds.data.text.chat import ChatSettings, DialogueTokenizer
from mtllm_ds.data.text.cutting import encode_documents
from mtllm_ds.data.text.tokenization import TextTokenizer, TokenizerSpec, load_text_tokenizer
from mtllm_ds.data.writing.builder import build_from
from mtllm_ds.data.writing.chunks import Chunk
from mtllm_ds.data.writing.dialogue_records import Dialogue, DialogueReader
from mtllm_ds.data.writing.filters import DocumentFilter, read_exclusions
from mtllm_ds.data.writing.inputs import note_inputs
from mtllm_ds.data.writing.output import Build, Progress, Result, id_columns
from mtllm_ds.data.writing.sources import InputFile, OnError
from mtllm_ds.errors import UserError


@dataclass(frozen=True, kw_only=True)
class DialogueSettings:
    """Everything that decides the bytes of a data set of dialogues."""

    inputs: tuple[InputFile, ...]
    """Of `dialogue_records.dialogue_input`"""
    llm: TokenizerSpec
    encoder: TokenizerSpec | None = None
    """Reads the student's prompt in a stack."""
    chat: ChatSettings = field(default_factory=ChatSettings)
    student_prompt: bool = False
    """Also store the student's prompt as the LLM reads it; always without an encoder."""
    split_share: float = 0.5
    """Share of a plain text that is its prompt."""
    weights: bool = False
    """The records have weights."""
    keep_records: bool = False
    """Shards hold where each sample comes from."""
    block_samples: int = 256
    shard_bytes: int = 64 << 20
    deduplicate: bool = False
    exclusion_list: str | None = None
    """File of hashes (`filters.py`) of texts that must not enter, such as test sets."""
    on_error: OnError = "fail"

    def __post_init__(self) -> None:
        if not 0 < self.split_share < 1:
            raise UserError(f"--split-share={self.split_share}: out of range; choose a share between 0 and 1")
        if self.chat.plain and (self.chat.template is not None or self.chat.system_prompt is not None):
            raise UserError("--plain: takes neither a chat template nor a system prompt; leave one of them out")
        if len({source.path for source in self.inputs}) < len(self.inputs):
            raise UserError("--input: a file is given twice; name each once")

    @property
    def stores_student_prompt(self) -> bool:
        return self.student_prompt or self.encoder is None


@dataclass(frozen=True)
class EncodedDialogue:
    """One dialogue as its readers get it."""

    prompt_ids: list[int]
    """What the teacher reads"""
    student_prompt_ids: list[int]
    response_ids: list[int]
    encoder_ids: list[int]
    is_cut: bool


def build_dialogue_shards(
    settings: DialogueSettings,
    output: Path,
    num_workers: int = 0,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Manifest:
    """Tokenize dialogues into a data set in `output`; a killed run goes on where it was, a finished one is left as it is.

    Raises:
        UserError: bad input, no chat template, or `output` holds a data set made with other settings.
    """
    readers = [
        DialogueReader(
            source,
            settings.on_error,
            plain=settings.chat.plain,
            weights=settings.weights,
            keep_records=settings.keep_records,
        )
        for source in settings.inputs
    ]
    encoder = None if settings.encoder is None else load_text_tokenizer(settings.encoder)
    llm = load_text_tokenizer(settings.llm)
    dialogues = DialogueTokenizer(llm, settings.chat)
    exclusions = read_exclusions(settings.exclusion_list) if settings.exclusion_list else frozenset()
    decisive = asdict(settings) | {
        "template": dialogues.template,
        "input_bytes": [reader.bytes_total for reader in readers],
        "fingerprints": [side.fingerprint for side in (encoder, llm) if side is not None],
        "exclusions": hashlib.sha256(b"".join(sorted(exclusions))).hexdigest(),
    }
    if not settings.keep_records:
        del decisive["keep_records"]  # data sets made before there was such a choice are the same
    build = Build(
        output=output,
        settings_hash=hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest(),
        sides=[side for side in (encoder, llm) if side is not None],
        block_samples=settings.block_samples,
        shard_bytes=settings.shard_bytes,
        progress=Progress(sum(reader.bytes_total for reader in readers)),
        report=report,
        chat=ChatEntry(dialogues.template, settings.chat.system_prompt, dialogues.end_id),
        before_manifest=lambda: note_inputs(output, readers),
    )
    tokenize = partial(_tokenize, settings, encoder, llm, dialogues)
    return build_from(readers, build, DocumentFilter(settings.deduplicate, exclusions), tokenize, num_workers)


def encode_dialogue(
    dialogue: Dialogue,
    settings: DialogueSettings,
    encoder: TextTokenizer | None,
    llm: TextTokenizer,
    chat: DialogueTokenizer,
) -> EncodedDialogue | str:
    """A dialogue as ids, or in a word why it is left out: `long_prompt`, `special_token`, or `empty` where a prompt has no token.

    Raises:
        UserError: the chat template refuses the messages.
    """
    ends = dialogue.response is not None
    if not ends:
        split = _split(dialogue, settings, [side for side in (encoder, llm) if side is not None])
        if split is None:
            return "empty"
        dialogue = split
    assert dialogue.response is not None
    if chat.spells_special([message["content"] for message in (*dialogue.messages, *dialogue.teacher_messages)]):
        return "special_token"
    teacher = chat.prompt_ids(dialogue.teacher_messages)
    student = chat.prompt_ids(dialogue.messages) if settings.stores_student_prompt else []
    read = []
    if encoder is not None:
        turns = [message["content"] for message in dialogue.messages if message["role"] != "system"]
        read = encoder(turns, dialogue.language)
    prompts = [
        teacher,
        *([student] if settings.stores_student_prompt else []),
        *([read] if encoder is not None else []),
    ]
    if not all(prompts):
        return "empty"  # nothing would tell the first token of the response
    room = llm.spec.max_length - max(len(teacher), len(student))
    if room < 1 or (encoder is not None and len(read) > encoder.spec.max_length):
        return "long_prompt"
    response = chat.response_ids(dialogue.response, ends=ends)
    return EncodedDialogue(teacher, student, response[:room], read, len(response) > room)


def _split(dialogue: Dialogue, settings: DialogueSettings, sides: Sequence[TextTokenizer]) -> Dialogue | None:
    """A plain text as prompt and response, parted at the blank next to `split_share` of what fits; None where one is empty."""
    (message,) = dialogue.messages
    ((sample, *_),) = encode_documents(sides, [(message["content"],)], dialogue.language)
    (text,) = sample.segments
    middle = max(1, int(len(text) * settings.split_share))
    blanks = [place for place in (text.rfind(" ", 0, middle + 1), text.find(" ", middle)) if place > 0]
    place = min(blanks, key=lambda blank: abs(blank - middle), default=middle)
    prompt, response = text[:place], text[place:]
    if not prompt.strip() or not response.strip():
        return None
    messages = ({"role": "user", "content": prompt},)
    return replace(dialogue, messages=messages, teacher_messages=messages, response=response)


def _tokenize(
    settings: DialogueSettings,
    encoder: TextTokenizer | None,
    llm: TextTokenizer,
    chat: DialogueTokenizer,
    chunk: Chunk,
) -> Result:
    statistics = Counter(documents=len(chunk.documents) + chunk.left_out.total()) + chunk.left_out
    kept: list[tuple[Dialogue, EncodedDialogue]] = []
    for dialogue in chunk.documents:
        assert isinstance(dialogue, Dialogue)
        try:
            encoded = encode_dialogue(dialogue, settings, encoder, llm, chat)
        except UserError as error:
            if settings.on_error == "fail":
                raise UserError(f"{dialogue.place}: {error}") from error
            encoded = "refused_messages"
        if isinstance(encoded, str):
            statistics[encoded] += 1
            continue
        kept.append((dialogue, encoded))
        statistics[f"pairs {dialogue.pair_type}"] += dialogue.pair_type is not None
    sides = [side for side in (encoder, llm) if side is not None]
    ids = id_columns(
        sides, [{"encoder": one.encoder_ids, "llm": [*one.prompt_ids, *one.response_ids]} for _, one in kept]
    )
    columns: Block = {**ids, RESPONSE_START: np.array([len(one.prompt_ids) for _, one in kept], np.int64)}
    if settings.stores_student_prompt:
        columns[STUDENT_PROMPT_IDS] = Ragged.from_rows(
            [one.student_prompt_ids for _, one in kept], ids_dtype(llm.vocab_size)
        )
    if settings.weights:
        columns[SAMPLE_WEIGHT] = np.array([dialogue.weight for dialogue, _ in kept], np.float32)
    if settings.keep_records:
        records = [json.dumps(dict(dialogue.record), ensure_ascii=False, default=str).encode() for dialogue, _ in kept]
        columns[RECORD] = Ragged.from_rows([np.frombuffer(record, np.uint8) for record in records], np.uint8)
    statistics.update(
        samples=len(kept),
        cut=sum(one.is_cut for _, one in kept),
        translations=sum(dialogue.messages != dialogue.teacher_messages for dialogue, _ in kept),
        text_bytes=_bytes(message["content"] for dialogue, _ in kept for message in dialogue.messages),
        llm_text_bytes=_bytes(
            text
            for dialogue, _ in kept
            for text in (*(message["content"] for message in dialogue.teacher_messages), dialogue.response or "")
        ),
        encoder_tokens=len(ids[ENCODER_IDS].values),
        llm_tokens=len(ids[LLM_IDS].values),
        response_tokens=sum(len(one.response_ids) for _, one in kept),
    )
    return Result(chunk.language, columns, +statistics, chunk.digest)


def _bytes(texts: Iterable[str]) -> int:
    return sum(len(text.encode()) for text in texts)
