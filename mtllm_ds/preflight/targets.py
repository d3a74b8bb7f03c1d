"""The target sets of a run's teacher, opened: they must be there, finished, of these shards and of this teacher."""

from __future__ import annotations

from collections.abc import Mapping

from mtllm_ds.checkpoint.trained import Trained
from mtllm_ds.config.schema import Settings
from mtllm_ds.data.shards.joined import JoinedTargets, parts_of
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.shards.targets import BlockTargets, TargetSet, TeacherIdentity
from mtllm_ds.data.text.tokenization import TextTokenizer
from mtllm_ds.teachers.next_tokens import next_token_identity
from mtllm_ds.teachers.trained import plain_teacher


def open_targets(
    settings: Settings, manifest: Manifest, teacher: Trained | None, tokenizers: Mapping[str, TextTokenizer]
) -> list[BlockTargets]:
    """The teacher's cached vectors, or next tokens, that come along with a data set's batches, checked to be this teacher's.

    Args:
        teacher: None where it is the plain LLM, or gone since the run began

    Raises:
        UserError: as `TargetSet`.
    """
    if settings.data.targets is None:
        return []
    identity = _identity(settings, teacher, tokenizers)
    parts = [part for part, _ in parts_of(manifest)]
    return [JoinedTargets(parts, [TargetSet(part, settings.data.targets, identity) for part in parts])]


def _identity(
    settings: Settings, teacher: Trained | None, tokenizers: Mapping[str, TextTokenizer]
) -> TeacherIdentity | None:
    """Who must have written them; None: whoever did."""
    if teacher is not None:
        return teacher.as_teacher(tokenizers[teacher.reading_side].fingerprint)
    if settings.objective.teacher_run is not None or settings.model.llm is None:
        return None
    if (temperature := settings.objective.next_tokens_at) is not None:
        return next_token_identity(settings.model.llm, tokenizers["llm"].fingerprint, temperature)
    return plain_teacher(settings.model.llm, tokenizers["llm"].fingerprint, settings.model.pooling)
