"""A Hugging Face folder that we write: whole or not at all, in place of an older one of ours and of nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mtllm_ds
from mtllm_ds import atomic
from mtllm_ds.errors import UserError

MARK = "mtllm_ds.json"
"""Its `config.json` is transformers' own, so a file beside it says that we wrote it."""


def check_replaceable(output: Path) -> None:
    """`UserError` where there is anything but an empty folder or one that `new_hugging_face_folder` wrote."""
    is_ours = (output / MARK).is_file()
    is_empty = output.is_dir() and not any(output.iterdir())
    if output.exists() and not is_ours and not is_empty:
        raise UserError(f"output {output}: exists and was not written by `mtllm-ds export`; choose another folder")


@contextmanager
def new_hugging_face_folder(output: Path, step: int) -> Iterator[Path]:
    """A folder for the model of a step, which takes its name when the block ends well."""
    check_replaceable(output)
    with atomic.new_folder(output) as temporary:
        yield temporary
        atomic.write_json(temporary / MARK, {"mtllm_ds": mtllm_ds.__version__, "step": step})
