"""The frozen manifest: sha256 of every file that the benchmark trains, validates and tests on, as they were when it was set up.

python -m benchmarks.quality.text.frozen --task lohelp_modules --data FOLDER   # rewrites the manifest; a change is a new benchmark
"""

import argparse
import hashlib
import json
import lzma
from pathlib import Path

from mtllm_ds.atomic import write_json
from mtllm_ds.command_line import Parser, run_and_exit
from mtllm_ds.errors import UserError
from mtllm_ds.languages import ENGLISH

MANIFESTS = {"lohelp_modules": "frozen_help_text.json", "ddtp_topics": "frozen_ddtp.json"}
"""Task of the benchmark -> its manifest, beside this file"""
PUBLIC_MANIFESTS = {"lohelp_modules": Path(__file__).with_name("frozen_help_text_public.json")}
"""That of a run on public models, where it is another: the help text as today's packages give it, in three languages more"""


def manifest_of(task: str) -> Path:
    return Path(__file__).with_name(MANIFESTS[task])


def content_digest(path: Path) -> str:
    """sha256 of a file's content; of an .xz file what is packed in it, so that another compressor changes nothing."""
    data = path.read_bytes()
    return hashlib.sha256(lzma.decompress(data) if path.suffix == ".xz" else data).hexdigest()


def files_of(folder: Path, languages: list[str]) -> dict[str, str]:
    """Digests of the files of some languages, by name."""
    names = [f"{split}_{ENGLISH}.jsonl" for split in ("train", "valid", "test")]
    names += [f"documents_{ENGLISH}.jsonl.xz"]
    names += [name for code in languages for name in (f"test_{code}.jsonl", f"parallel_{code}.tsv.xz")]
    names += [name for code in languages if (folder / (name := f"valid_{code}.jsonl")).is_file()]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder / missing[0]}: no text of the task there; make it with `make help-text` or `make ddtp`, or "
            "name its folder"
        )
    return {name: content_digest(folder / name) for name in names}


def changed_files(folder: Path, languages: list[str], manifest: Path) -> list[str]:
    """Names of files that are not the frozen ones."""
    frozen = json.loads(manifest.read_text(encoding="utf-8"))
    found = files_of(folder, languages)
    missing = [name for code in languages if (name := f"valid_{code}.jsonl") in frozen and name not in found]
    return [*missing, *(name for name, digest in found.items() if frozen.get(name) != digest)]


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(MANIFESTS), required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of its text")
    parser.add_argument("--manifest", type=Path, help="file to write (default: the task's)")
    options = parser.parse_args()
    known = sorted(path.stem.removeprefix("test_") for path in options.data.glob("test_*.jsonl"))
    write_json(
        options.manifest or manifest_of(options.task),
        files_of(options.data, [code for code in known if code != ENGLISH]),
    )
    return 0


if __name__ == "__main__":
    run_and_exit(main)
