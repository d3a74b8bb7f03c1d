"""What a teacher says about each sample, computed once and kept beside the shards.

A *target set* lives in `<data set>/targets/<name>/`:

    teacher.json          which teacher, which data set, how its words are kept
    group-000000.tar ...  a block of target columns for each block of the data set, a fixed number of blocks a file
    index.bin             where each block lies, its hash; written last, when every group is there

Groups do not depend on the number of ranks: rank r of W takes the groups that are missing and congruent to r mod W, so the work can
be stopped and resumed by any number of ranks. The teacher's forward is not done here: see `TargetWriter`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from mtllm_ds import atomic
from mtllm_ds.data.columns import (
    TEACHER_LOG_TAIL_MASS,
    TEACHER_POOLED,
    TEACHER_TOP_IDS,
    TEACHER_TOP_LOG_PROBS,
)
from mtllm_ds.data.shards.blocks import (
    Block,
    BlockError,
    Column,
    Ragged,
    block_hash,
    decode_block,
    encode_block,
    ids_dtype,
    num_rows,
)
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.shards.storage import StorageError, check_member_name
from mtllm_ds.data.shards.tar_shards import ShardWriter
from mtllm_ds.errors import UserError

VERSION = 1
GROUP_BLOCKS = 64
_INDEX, _TEACHER = "index.bin", "teacher.json"


@dataclass(frozen=True, kw_only=True)
class TeacherIdentity:
    """Whose word it is. Targets are used if all agrees but the folder's name, as a model may be moved."""

    name: str
    """The model's folder, and behind a comma how it was asked, if there are several ways"""
    revision: str | None
    tokenizer_fingerprint: str

    @property
    def manner(self) -> str:
        """How it was asked."""
        return self.name.rpartition(", ")[2] if ", " in self.name else ""

    def other_in(self, other: "TeacherIdentity") -> str | None:
        """The first field in which it is another teacher."""
        if self.manner != other.manner:
            return "name"
        fields = ("revision", "tokenizer_fingerprint")
        return next((field for field in fields if getattr(self, field) != getattr(other, field)), None)


@dataclass(frozen=True, kw_only=True)
class TopK:
    """The k most probable next tokens at every position, and how much the others have together."""

    ids: torch.Tensor
    """(T, k) int64, most probable first"""
    log_probs: torch.Tensor
    """(T, k) float32"""
    log_tail_mass: torch.Tensor
    """(T,) float32, logarithm of the summed probability of all other tokens"""


def top_k_log_probs(logits: torch.Tensor, k: int) -> TopK:
    """Top k of each row of logits (T, V), in float32. The tail is summed itself, not taken as 1 minus the rest, which cancels."""
    logits = logits.float()
    normalizer = logits.logsumexp(-1, keepdim=True)
    values, ids = logits.topk(k)
    tail = logits.scatter(-1, ids, float("-inf")).logsumexp(-1)
    lowest = torch.finfo(torch.float16).min
    return TopK(ids=ids, log_probs=values - normalizer, log_tail_mass=(tail - normalizer[..., 0]).clamp_min(lowest))


def pooled_columns(vectors: torch.Tensor, dtype: str = "float32") -> Block:
    """Columns of pooled vectors: (B, D) -> `teacher_pooled` (B, D).

    Raises:
        UserError: a vector is not finite in `dtype`.
    """
    return {TEACHER_POOLED: _stored(vectors, dtype)}


def choice_columns(vectors: Sequence[torch.Tensor], dtype: str = "float32") -> Block:
    """Columns of the choices' vectors: a (C_i, D) tensor a row -> `teacher_pooled`, ragged (C_i, D). Errors as above."""
    return {TEACHER_POOLED: Ragged.from_rows([_stored(own, dtype) for own in vectors], dtype)}


def _stored(vectors: torch.Tensor, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        stored = vectors.float().cpu().numpy().astype(dtype)
    if not np.isfinite(stored).all():
        raise UserError(f"--store={dtype}: what a teacher says is not finite in it; store float32 or mend the teacher")
    return stored


def top_k_columns(samples: Sequence[TopK], vocab_size: int, dtype: str = "float32") -> Block:
    """Columns of top-k targets, one row a sample of T_i positions: `teacher_top_ids` (T_i, k), `teacher_top_log_probs` (T_i, k)
    and `teacher_log_tail_mass` (T_i,), the last two in `dtype`. Errors as above."""
    ids = [sample.ids.cpu().numpy() for sample in samples]
    return {
        TEACHER_TOP_IDS: Ragged.from_rows(ids, ids_dtype(vocab_size)),
        TEACHER_TOP_LOG_PROBS: Ragged.from_rows([_stored(sample.log_probs, dtype) for sample in samples], dtype),
        TEACHER_LOG_TAIL_MASS: Ragged.from_rows([_stored(sample.log_tail_mass, dtype) for sample in samples], dtype),
    }


class TargetWriter:
    """Adds a target set to a local data set. What a caller does on each rank (the forward is the caller's):

        writer = TargetWriter(manifest, "pooled", teacher)
        for group in writer.missing_groups(rank, world_size):
            with writer.open(group) as sink:
                for block in sink.blocks:                      # positions in the manifest's index
                    sink.add(pooled_columns(forward(rows)))    # rows manifest.first_row[block] .. first_row[block + 1], in order
        # all ranks meet here, then one of them:
        writer.finish()

    Under ZeRO-3, where all ranks must make equally many forwards, go through groups in lockstep: a rank that has fewer left
    repeats another's last forward and drops the result.

    Args:
        kept_as: options by name that decide what the columns hold (how many tokens, which precision), the same for all groups

    Raises:
        UserError: the data set is remote, or the target set was begun by another teacher or with other options.
    """

    def __init__(
        self,
        manifest: Manifest,
        name: str,
        teacher: TeacherIdentity,
        group_blocks: int = GROUP_BLOCKS,
        kept_as: Mapping[str, str | int] | None = None,
    ) -> None:
        self._manifest = manifest
        self._group_blocks = group_blocks
        self._folder = Path(manifest.storage.root) / "targets" / check_member_name(name)
        if "://" in manifest.storage.root:
            raise UserError(
                f"--data={manifest.storage.root}: targets cannot be added there; copy the data set to a local folder"
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        content = {
            "version": VERSION,
            "data_set": manifest.hash,
            "teacher": asdict(teacher),
            "group_blocks": group_blocks,
            "kept_as": dict(kept_as or {}),
        }
        path = self._folder / _TEACHER
        if path.exists():
            self._require_same(json.loads(path.read_text()), content)
        else:
            atomic.write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())

    def _require_same(self, begun: dict[str, Any], content: dict[str, Any]) -> None:
        options: dict[str, str | int] = content["kept_as"]
        before: dict[str, str | int] = begun.get("kept_as", options)  # older sets did not note it
        is_other = TeacherIdentity(**begun["teacher"]).other_in(TeacherIdentity(**content["teacher"]))
        if is_other or {**begun, "kept_as": options, "teacher": content["teacher"]} != content:
            raise UserError(
                f"targets {self._folder}: begun by another teacher or for other shards; choose another --name"
            )
        for option in sorted(before.keys() | options.keys()):
            if before.get(option) != options.get(option):
                raise UserError(
                    f"{option}={options.get(option)}: targets {self._folder} were begun with {before.get(option)}; give that, "
                    "or choose another --name"
                )

    @property
    def num_groups(self) -> int:
        return -(-self._manifest.num_blocks // self._group_blocks)

    def missing_groups(self, rank: int = 0, world_size: int = 1) -> list[int]:
        """Groups of this rank that are not there yet."""
        own = range(rank, self.num_groups, world_size)
        return [group for group in own if not self._path(group, ".index").exists()]

    def open(self, group: int) -> "GroupSink":
        """A context manager that takes the targets of a group, and keeps them if all came."""
        first = group * self._group_blocks
        blocks = range(first, min(first + self._group_blocks, self._manifest.num_blocks))
        return GroupSink(self._manifest, self._folder, self._path(group, ".tar"), blocks)

    def finish(self) -> None:
        """Write the index: from now on the set can be read.

        Raises:
            UserError: groups are missing.
        """
        if missing := self.missing_groups():
            raise UserError(
                f"targets {self._folder}: {len(missing)} of {self.num_groups} groups are missing; run it again"
            )
        parts = [decode_block(self._path(group, ".index").read_bytes()) for group in range(self.num_groups)]
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        atomic.write_bytes(self._folder / _INDEX, encode_block(columns, deflate=True))

    def _path(self, group: int, suffix: str) -> Path:
        return self._folder / f"group-{group:06d}{suffix}"


class GroupSink:
    """Takes one block of target columns after the other."""

    def __init__(self, manifest: Manifest, folder: Path, path: Path, blocks: range) -> None:
        self.blocks = blocks
        """Blocks of the data set that this group covers, in the order in which `add` takes them."""
        self._manifest = manifest
        self._path = path
        self._writer = ShardWriter(folder, path.name)
        self._entries: list[tuple[int, int, bytes]] = []

    def add(self, columns: Mapping[str, Column]) -> None:
        """The targets of the next block: as many rows as the block has samples."""
        block = self.blocks[len(self._entries)]
        wanted = len(self._manifest.index.llm_lengths[block])
        assert num_rows(dict(columns)) == wanted, f"{num_rows(dict(columns))} rows of targets for {wanted} samples"
        data = encode_block(columns)
        self._entries.append((self._writer.write(f"{block:08d}", data, wanted), len(data), block_hash(data)))

    def __enter__(self) -> "GroupSink":
        return self

    def __exit__(self, exception_type: object, *exception: object) -> None:
        if exception_type is not None:
            self._writer.abort()
            return
        assert len(self._entries) == len(self.blocks), f"{len(self._entries)} of {len(self.blocks)} blocks came"
        self._writer.close()
        offsets, sizes, hashes = zip(*self._entries, strict=True)
        columns: Block = {
            "offset": np.array(offsets, np.uint64),
            "size_bytes": np.array(sizes, np.uint32),
            "sha256": np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 32),
        }
        # The group counts as done once its index is there: that comes after the shard has its name.
        atomic.write_bytes(self._path.with_suffix(".index"), encode_block(columns))


class BlockTargets(Protocol):
    """What comes along with a data set's blocks."""

    def read(self, block: int) -> Block:
        """Target columns of a block."""


class TargetSet:
    """A target set that is there, opened: its columns by block of the data set.

    Args:
        teacher: who must have written them; None takes any

    Raises:
        UserError: there is no such finished set, it belongs to another data set, or another teacher wrote it.
    """

    def __init__(self, manifest: Manifest, name: str, teacher: TeacherIdentity | None = None) -> None:
        self._manifest = manifest
        self._prefix = f"targets/{check_member_name(name)}"
        self._where = f"data.targets={name}: those of '{manifest.storage.root}'"
        try:
            content = json.loads(manifest.storage.read(f"{self._prefix}/{_TEACHER}"))
            index: dict[str, Any] = decode_block(manifest.storage.read(f"{self._prefix}/{_INDEX}"))
        except (StorageError, BlockError, json.JSONDecodeError) as error:
            raise UserError(f"{self._where} are not finished or damaged ({error}); compute them first") from error
        if content["version"] != VERSION or content["data_set"] != manifest.hash:
            raise UserError(f"{self._where} belong to other shards or another version; compute them anew")
        self.teacher = TeacherIdentity(**content["teacher"])
        self._check_teacher(teacher)
        self._group_blocks = content["group_blocks"]
        self._offset, self._size, self._sha256 = index["offset"], index["size_bytes"], index["sha256"]
        if len(self._offset) != manifest.num_blocks:
            raise UserError(
                f"{self._where} cover {len(self._offset)} of {manifest.num_blocks} blocks; compute them anew"
            )

    def _check_teacher(self, expected: TeacherIdentity | None) -> None:
        if expected is not None and (field := self.teacher.other_in(expected)) is not None:
            one, other = (
                f"'{getattr(teacher, field)}'" + ("" if field == "name" else f" of '{teacher.name}'")
                for teacher in (self.teacher, expected)
            )
            raise UserError(f"{self._where} come from the teacher's {field} {one}, not {other}; compute them anew")

    def read(self, block: int) -> Block:
        """Target columns of a block.

        Raises:
            UserError: they are missing or altered.
        """
        name = f"{self._prefix}/group-{block // self._group_blocks:06d}.tar"
        expected = self._sha256[block].tobytes()
        try:
            data = self._manifest.storage.read_range(
                name, int(self._offset[block]), int(self._size[block]), lambda read: block_hash(read) == expected
            )
            return decode_block(data)
        except (StorageError, BlockError) as error:
            raise UserError(f"{self._where} are damaged at block {block}: {error}; compute them anew") from error
