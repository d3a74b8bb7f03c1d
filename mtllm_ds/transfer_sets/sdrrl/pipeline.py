"""The pipeline: instructions, answers, translations, dialogues, stage by stage in one folder, on any number of ranks.

    instructions.jsonl          what is asked, and where it comes from
    answers.jsonl               the chat model's own answers (or gold ones), and why some are not used
    translations.CODE.jsonl     both in another language
    lexicon.CODE.jsonl          words for code-switching
    dialogues.jsonl             for `prepare dialogues`
    report.json                 counts of all stages

Beside each lies what it was made with (`NAME.json`). A stage that is done is left as it is; one that was killed goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from mtllm_ds import atomic
from mtllm_ds.cluster.agree import from_main, together
from mtllm_ds.cluster.launch import Cluster
from mtllm_ds.data.writing.filters import normalized_hash, read_exclusions
from mtllm_ds.errors import UserError
from mtllm_ds.file_lock import HeldError, lock_file
from mtllm_ds.languages import ENGLISH
from mtllm_ds.transfer_sets.sdrrl.answers import gold_answers, kept, write_answers
from mtllm_ds.transfer_sets.sdrrl.chat_model import ChatModel
from mtllm_ds.transfer_sets.sdrrl.code_switching import words_of
from mtllm_ds.transfer_sets.sdrrl.filters import LanguageCheck
from mtllm_ds.transfer_sets.sdrrl.instructions import (
    Sieve,
    read_instructions,
    write_self_instructions,
)
from mtllm_ds.transfer_sets.sdrrl.language_names import english_name
from mtllm_ds.transfer_sets.sdrrl.lexicons import FREEDICT, aligned_lexicon, read_freedict, read_lexicon, usable
from mtllm_ds.transfer_sets.sdrrl.pairs import TEXT_TYPES, Material, make_pairs, with_history
from mtllm_ds.transfer_sets.sdrrl.parallel import read_parallel
from mtllm_ds.transfer_sets.sdrrl.settings import ALIGNED, TRANSLATOR, SdrrlSettings
from mtllm_ds.transfer_sets.sdrrl.stages import Progress, Row, Stage
from mtllm_ds.transfer_sets.sdrrl.translations import translate_answers
from mtllm_ds.transfer_sets.translation.engines import load_engine
from mtllm_ds.transfer_sets.translation.translator import Translator

Rows = tuple[list[Row], Mapping[str, int]]
_SAID_BY_OLDER_PAIRS = {"pairs": {"teacher_sees": "question"}}
"""Dialogues made before there was a choice are as good as those of the default."""


class Pipeline:
    """All stages of one folder.

    Args:
        progress: what a stage is called -> where it reports
    """

    def __init__(
        self, settings: SdrrlSettings, folder: Path, cluster: Cluster, progress: Callable[[str], Progress]
    ) -> None:
        self._settings, self._folder, self._cluster, self._progress = settings, folder, cluster, progress
        self._engine = cache(self._load_engine)

    def run(self) -> dict[str, Any]:
        """Every stage that is not done yet; returns the report.

        Raises:
            UserError: something given cannot be used, or the folder holds stages made with other settings.
        """
        lock = self._together(self._lock)
        try:
            instructions = self._instructions()
            answers = self._answers(instructions)
            self._chat_model.release()  # memory for the MT model
            usable_answers = kept(answers.rows)
            if not usable_answers:
                gold = self._settings.gold_field
                whose = (
                    f"--llm={self._settings.llm}: none of its" if gold is None else f"--gold-field={gold}: none of the"
                )
                raise UserError(f"{whose} answers can be used ({answers.counts}); see {answers.path}")
            translations = {
                code: self._translations(answers, usable_answers, code) for code in self._settings.translators
            }
            lexicons = {code: self._lexicon(code, usable_answers) for code in self._settings.lexicons}
            dialogues = self._dialogues(instructions, answers, usable_answers, translations, lexicons)
            stages = [instructions, answers, *translations.values(), *lexicons.values(), dialogues]
            report = {stage.name: stage.counts for stage in stages}
            self._together(lambda: self._write_report(report))
            return report
        finally:
            if lock is not None:
                lock.close()

    def _instructions(self) -> Stage:
        own, asked = self._settings, self._settings.self_instructions
        excluded = [] if own.exclusion_list is None else [own.exclusion_list]
        decisive: dict[str, Any] = {"exclusions": self._hashes(excluded)}
        if asked is None:
            decisive |= {"files": self._hashes(own.instructions), "field": own.instruction_field}
            decisive |= {"num_instructions": own.num_instructions, "gold_field": own.gold_field}
            return self._stage(
                "instructions",
                decisive,
                lambda stage: self._together(
                    lambda: read_instructions(
                        own.instructions, own.instruction_field, own.num_instructions, self._sieve(), own.gold_field
                    )
                ),
            )
        decisive |= {"self_instructions": asdict(asked), "seed": own.seed, "check_language": own.check_language}
        return self._stage(
            "instructions",
            {**decisive, **self._chat_model.made_by},
            lambda stage: write_self_instructions(
                stage, asked, self._chat_model, self._cluster,
                seed=own.seed, sieve=self._sieve, check=self._language_check, progress=self._progress("instructions"),
            ),
        )  # fmt: skip

    def _answers(self, instructions: Stage) -> Stage:
        own = self._settings
        if own.gold_field is not None:
            made_with = {"instructions": instructions.sha256, "check_language": own.check_language}
            return self._stage(
                "answers",
                {**made_with, "gold_field": own.gold_field, **self._chat_model.made_by},
                lambda stage: self._together(
                    lambda: gold_answers(instructions.rows, self._chat_model, self._language_check)
                ),
            )
        decisive = {
            "instructions": instructions.sha256, "seed": own.seed, "generation": asdict(own.generation),
            "batch_size": own.batch_size, "keep_sentences": own.keep_sentences,
            "check_language": own.check_language, **self._chat_model.made_by,
        }  # fmt: skip
        return self._stage(
            "answers",
            decisive,
            lambda stage: write_answers(
                stage, instructions.rows, self._chat_model, self._cluster,
                seed=own.seed, generation=own.generation, batch_size=own.batch_size,
                keep_sentences=own.keep_sentences, check=self._language_check, progress=self._progress("answers"),
            ),
        )  # fmt: skip

    def _translations(self, answers: Stage, usable_answers: list[Row], code: str) -> Stage:
        translator = self._translator(code)
        by = {
            "translator": self._settings.translators[code],
            **self._together(lambda: translator.key(ENGLISH, code)),
        }
        return self._stage(
            f"translations.{code}",
            {"answers": answers.sha256, **by},
            lambda stage: translate_answers(usable_answers, translator, code, by, self._progress(f"into {code}")),
        )

    def _lexicon(self, code: str, answers: list[Row]) -> Stage:
        given = self._settings.lexicons[code]
        questions = [row["prompt"] for row in answers]
        decisive: dict[str, Any] = {"lexicon": given}
        if given == TRANSLATOR:
            translator = self._translator(code)
            decisive |= self._together(lambda: translator.key(ENGLISH, code))
            decisive |= {"words": normalized_hash("\n".join(questions))}
        elif given == ALIGNED:
            decisive |= {"parallel": self._hashes(self._settings.parallel.get(code, ()))}
        elif not given.startswith(FREEDICT):
            decisive |= {"file": self._hashes([given])}

        def work(stage: Stage) -> Rows:
            if given == TRANSLATOR:
                words = words_of(questions)
                found = self._translator(code).translate(
                    words, ENGLISH, code, progress=self._progress(f"words of {code}")
                )
                lexicon = usable(dict(zip(words, found, strict=True)))
            else:
                lexicon = from_main(lambda: self._read_lexicon(given, code), self._cluster.device)
            return [{"id": word, "translation": text} for word, text in lexicon.items()], {"words": len(lexicon)}

        return self._stage(f"lexicon.{code}", decisive, work)

    def _read_lexicon(self, given: str, code: str) -> dict[str, str]:
        if given == ALIGNED:
            return aligned_lexicon(self._parallel(code))
        return read_freedict(given.removeprefix(FREEDICT)) if given.startswith(FREEDICT) else read_lexicon(given)

    def _dialogues(
        self,
        instructions: Stage,
        answers: Stage,
        usable_answers: list[Row],
        translations: Mapping[str, Stage],
        lexicons: Mapping[str, Stage],
    ) -> Stage:
        own = self._settings
        reads_text = any(name in own.pairs.types for name in TEXT_TYPES)
        names_it = reads_text or own.pairs.teacher_sees != "question"
        decisive = {
            "pairs": asdict(own.pairs),
            "stages": {stage.name: stage.sha256 for stage in (answers, *translations.values(), *lexicons.values())},
            "parallel": {code: self._hashes(files) for code, files in own.parallel.items()},
        }

        def work() -> Rows:
            material = {
                code: Material(
                    {row["id"]: row for row in kept(stage.rows)},
                    {row["id"]: row["translation"] for row in lexicons[code].rows} if code in lexicons else {},
                    self._parallel(code) if reads_text else (),
                    english_name(code) if names_it else "",
                )
                for code, stage in translations.items()
            }
            rows, counts = make_pairs(usable_answers, material, own.pairs)
            made_of = {stage.name: stage.rows for stage in (instructions, answers, *translations.values())}
            return with_history(rows, made_of), {
                f"{name} {language}": count for (name, language), count in counts.items()
            }

        return self._stage("dialogues", decisive, lambda stage: self._together(work), _SAID_BY_OLDER_PAIRS)

    def _stage(
        self,
        name: str,
        decisive: Mapping[str, Any],
        work: Callable[[Stage], Rows],
        implied: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Stage:
        """The stage, done: by an earlier run, or by all ranks now."""
        # Rank 0 says whether it is done: another rank may look when the work has gone on.
        done = from_main(lambda: Stage(self._folder, name, decisive, implied).is_done, self._cluster.device)
        stage = Stage(self._folder, name, decisive, implied)
        if not done:
            rows, counts = work(stage)
            self._together(lambda: stage.finish(rows, counts) if self._cluster.is_main else None)
        return stage

    @cached_property
    def _chat_model(self) -> ChatModel:
        own = self._settings
        return self._together(
            lambda: ChatModel(
                own.llm, own.chat, revision=own.revision, trust_remote_code=own.trust_remote_code,
                device=self._cluster.device, dtype=own.dtype,
            )
        )  # fmt: skip

    @cached_property
    def _language_check(self) -> LanguageCheck | None:
        return self._together(LanguageCheck) if self._settings.check_language else None

    @cached_property
    def _exclusions(self) -> frozenset[bytes]:
        given = self._settings.exclusion_list
        return frozenset() if given is None else self._together(lambda: read_exclusions(given))

    def _sieve(self) -> Sieve:
        return Sieve(self._exclusions)

    def _translator(self, code: str) -> Translator:
        engine = self._engine(self._settings.translators[code])
        return Translator(engine, self._folder / "cache", keep_code=True, device=self._cluster.device)

    def _load_engine(self, given: str) -> Any:
        own = self._settings
        return self._together(
            lambda: load_engine(
                given,
                decoding=own.decoding,
                device=self._cluster.device,
                dtype=own.dtype,
                time_out_seconds=own.time_out_seconds,
            )
        )

    def _parallel(self, code: str) -> list[tuple[str, str]]:
        return read_parallel(self._settings.parallel.get(code, ()), code, self._exclusions)

    def _hashes(self, files: Sequence[str]) -> list[str]:
        return self._together(lambda: [_hash_of(file) for file in files])

    def _together(self, work: Callable[[], Any]) -> Any:
        return together(work, self._cluster.device)

    def _lock(self) -> Any:
        """Held by rank 0."""
        if not self._cluster.is_main:
            return None
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            return lock_file(self._folder / ".lock")
        except HeldError as error:
            raise UserError(
                f"--output={self._folder}: another process is writing to it; wait for it, or choose another"
            ) from error

    def _write_report(self, report: Mapping[str, Any]) -> None:
        if self._cluster.is_main:
            atomic.write_json(self._folder / "report.json", report)


def _hash_of(file: str) -> str:
    if not Path(file).is_file():
        raise UserError(f"{file}: no such file; give the path of one that exists")
    return atomic.sha256_file(Path(file))
