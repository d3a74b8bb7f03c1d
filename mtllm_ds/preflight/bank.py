"""Whether a run's teachers, one per language, fit its student and its data; nothing of their weights is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mtllm_ds.config.names import lasting_name
from mtllm_ds.config.schema import Settings
from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.text.tokenization import TextTokenizer, TokenizerSpec, load_text_tokenizer
from mtllm_ds.data.text.vocabulary import vocabulary_of
from mtllm_ds.errors import UserError
from mtllm_ds.models.head_probe import probe_head
from mtllm_ds.models.loading import base_fingerprint, llm_config
from mtllm_ds.preflight.start import Bases
from mtllm_ds.teachers.bank import teacher_llm


def check_bank(settings: Settings, manifests: Sequence[Manifest], student: TextTokenizer | None) -> Bases:
    """Name, revision and fingerprint of each teacher, by `teacher_of.CODE`; nothing without teachers.

    Raises:
        UserError: a language without teacher or samples, or a teacher with another vocabulary or another kind of head.
    """
    teachers = settings.objective.teacher_models
    if not teachers:
        return {}
    assert student is not None
    _check_languages(settings, manifests)
    own = _Outputs(settings.model.given_llm, student)
    found: Bases = {}
    for language, model in teachers.items():
        llm = teacher_llm(model, settings.model.given_llm)
        where = f"objective.teacher_of.{language}"
        if (Path(llm.name) / "checkpoints").is_dir():
            raise UserError(
                f"{where}={llm.name}: it is a run; name the folder that `mtllm-ds export {llm.name} FOLDER` writes"
            )
        try:
            spec = TokenizerSpec(
                name=llm.name, revision=llm.revision, side="llm", trust_remote_code=llm.trust_remote_code
            )
            theirs, fingerprint = _Outputs(llm, load_text_tokenizer(spec)), base_fingerprint(llm)
        except UserError as error:
            raise UserError(f"{where}: {str(error).replace('model.llm', where)}") from error
        if mistake := own.differs_from(theirs):
            raise UserError(f"{where}={llm.name}: {mistake}")
        found[f"teacher_of.{language}"] = {
            "name": lasting_name(llm.name), "revision": llm.revision, "fingerprint": fingerprint,
        }  # fmt: skip
    return found


class _Outputs:
    """What a model tells apart, and how its head makes logits of it."""

    def __init__(self, llm: LLMSettings, tokenizer: TextTokenizer) -> None:
        config = llm_config(llm)
        self.vocabulary = vocabulary_of(tokenizer).hash
        self.size = int(config.get_text_config().vocab_size)
        self.softcap = probe_head(llm, config).softcap

    def differs_from(self, teacher: _Outputs) -> str | None:
        """Why a student with these outputs cannot be taught by such a teacher."""
        if teacher.vocabulary != self.vocabulary:
            return "its vocabulary is not the student's; take a teacher that was trained with the same tokenizer"
        if teacher.size != self.size:
            return f"it tells {teacher.size} tokens apart, the student {self.size}; set model.llm.config.vocab_size={teacher.size}"
        if teacher.softcap != self.softcap:
            return f"its logits have a soft cap of {teacher.softcap}, the student's of {self.softcap}; take another"
        return None


def _check_languages(settings: Settings, manifests: Sequence[Manifest]) -> None:
    teachers = settings.objective.teacher_models
    for name, manifest in zip(("data.train", "data.validation"), manifests, strict=False):
        place = manifest.storage.root
        counts = dict(zip(manifest.languages, manifest.samples_of_language.tolist(), strict=True))
        if missing := [code for code in manifest.languages if code not in teachers]:
            raise UserError(
                f"objective.teacher_of: no teacher for {', '.join(missing)}, which {name}={place} holds; name one, or leave "
                "its text out"
            )
        empty = [code for code in teachers if not counts.get(code)]
        if name == "data.train" and empty:
            raise UserError(
                f"objective.teacher_of.{empty[0]}: {name}={place} holds no sample of {', '.join(empty)}; add text, or leave the "
                "teacher out"
            )
