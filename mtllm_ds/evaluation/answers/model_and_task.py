"""Whether an exported model can answer a task at all, told before it is loaded; and what its answers are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from mtllm_ds.checkpoint.export import Export
from mtllm_ds.config.objectives import names_of_systems
from mtllm_ds.data.text.tokenization import TextTokenizer, load_text_tokenizer
from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.answers.survey import Read
from mtllm_ds.evaluation.items.tasks import Task
from mtllm_ds.languages import ENGLISH

Control = Literal["none", "wrong_tag", "shuffled_connector"]


def check_model_answers(export: Export, task: Task) -> tuple[str, ...]:
    """The classes of the model's head, in order (empty for multiple choice).

    Raises `UserError` if it has no head, or one for another kind of task or other labels.
    """
    tuned = export.task
    if tuned is None:
        raise UserError(
            f"export {export.folder}: it has no head, so it cannot answer {task.name}; export a run of task_tuning or "
            "task_distillation"
        )
    if tuned.type != task.type:
        raise UserError(
            f"export {export.folder}: it was tuned on {tuned.name} ({tuned.type}) and cannot answer {task.name} ({task.type}); "
            "name a model tuned on such a task"
        )
    if task.type == "multiple_choice":
        return ()
    if set(tuned.labels) != set(task.labels):
        raise UserError(
            f"export {export.folder}: it was tuned on {tuned.name}, whose labels are {', '.join(tuned.labels)}, and not "
            f"{', '.join(task.labels)} as in {task.name}; name a model tuned on that task"
        )
    return tuple(tuned.labels)


def tags_of(export: Export, task: Task, languages: Sequence[str], read: Read) -> dict[str, str]:
    """The tag that the model reads each language with; raises `UserError` if its MT encoder lacks one of them."""
    tags = {code: task.tag_of(code) if read == "text" else ENGLISH for code in languages}
    if not _reads_tags(export):
        return tags
    tokenizer = _encoder_tokenizer(export)
    unknown = [code for code, tag in tags.items() if tokenizer.language_codes and tag not in tokenizer.language_codes]
    if unknown:
        known = [code for code in languages if code not in unknown]
        raise UserError(
            f"export {export.folder}: its MT encoder has no tag for {', '.join(unknown)} of {task.name}; leave them out: "
            f"--languages {' '.join(known) or '...'}"
        )
    return tags


def wrong_tags(export: Export, task: Task, tags: Mapping[str, str]) -> dict[str, str]:
    """A control: each language is read with the tag of the task's next language that the MT encoder knows.

    Raises `UserError` if tags mean nothing to the model, or there is no other.
    """
    known = _encoder_tokenizer(export).language_codes if _reads_tags(export) else ()
    ring = list(dict.fromkeys(tag for code in task.languages if (tag := task.tag_of(code)) in known))
    if len(ring) < 2:
        raise UserError(
            f"export {export.folder}: it reads no language tags, or only one; there is no wrong_tag control"
        )
    return {code: ring[(ring.index(tag) + 1) % len(ring)] for code, tag in tags.items()}


def system_of(export: Export, control: Control, read: Read) -> str:
    """What tables call this model, unless the user says. Raises `UserError` if a control and the ceiling are asked for at once."""
    if control != "none" and read != "text":
        raise UserError(f"--control={control}: does not go together with --read={read}; leave one out")
    if control != "none":
        return control
    if read == "originals":
        return "english_originals"
    return names_of_systems(str(export.objective)).get(export.reader, export.folder.name)


def _reads_tags(export: Export) -> bool:
    return export.reader != "llm"


def _encoder_tokenizer(export: Export) -> TextTokenizer:
    return load_text_tokenizer(export.tokenizer_spec("encoder"))
