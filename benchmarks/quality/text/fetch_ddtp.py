"""Rebuild the task `ddtp_topics` and the text around it from Debian's translated package descriptions, with apt-get, without
touching the system's state.

    python -m benchmarks.quality.text.fetch_ddtp --out runs/bases/ddtp [--languages deu_Latn fra_Latn ...]

The indices `Packages` and `Translation-LANG` are fetched by apt-get with private lists under FOLDER/apt; a stopped run goes on, and
what has not changed is not fetched again. Beside the items stand `parallel_LANG.tsv.xz` and `documents_eng_Latn.jsonl.xz` (what an
MT model and stage 1 train on: nothing near a test item) and `valid_LANG.jsonl` (pairs to validate on). `sources.json` records the
sha256 of each index and of each file written. A translation follows its package's licence: the files are for use here, not for
shipping.
"""

import argparse
import json
import lzma
from pathlib import Path

from rich.console import Console

from benchmarks.quality.text.apt import Apt
from benchmarks.quality.text.ddtp import TRANSLATIONS, build, descriptions, read_packages, read_pinned, split_packages
from benchmarks.quality.text.ddtp_text import documents, parallel, validation_pairs
from mtllm_ds.atomic import sha256_file, write_bytes, write_json
from mtllm_ds.command_line import Parser, run_and_exit
from mtllm_ds.errors import UserError

PINNED = Path(__file__).with_name("ddtp_packages.tsv.xz")


def indices(lists: Path, ending: str) -> list[Path]:
    """Index files of one kind; those of the release itself come last, so that they win over its updates."""
    found = sorted(lists.glob(f"*{ending}"), key=lambda path: ("-security_" not in path.name, path.name))
    if not found:
        raise UserError(
            f"no index {ending} in {lists}: the archive in sources.list has none; name the other languages by --languages"
        )
    return found


def read(paths: list[Path]) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in paths]


def merged(paths: list[Path]) -> dict[str, str]:
    """Descriptions of several Translation files by MD5."""
    return {md5: text for content in read(paths) for md5, text in descriptions(content).items()}


def as_json(row: dict) -> str:
    return json.dumps(row, ensure_ascii=False)


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--languages", nargs="+", default=list(TRANSLATIONS), choices=list(TRANSLATIONS))
    options = parser.parse_args()
    console = Console()
    apt = Apt(options.out.resolve() / "apt", ("en", *(TRANSLATIONS[code] for code in options.languages)))
    with console.status("fetching the indices with apt-get"):
        apt.run("apt-get", "update")
    lists = apt.folder / "lists"
    # apt writes the underscore of a code as %5f in a file's name.
    endings = {code: f"_Translation-{TRANSLATIONS[code].replace('_', '%5f')}" for code in options.languages}
    with console.status("joining packages, descriptions and translations"):
        english = indices(lists, "_Translation-en")
        archives = indices(lists, "_Packages")
        packages = read_packages(read(archives), merged(english))
        translated = {code: indices(lists, ending) for code, ending in endings.items()}
        translations = {code: merged(paths) for code, paths in translated.items()}
        pinned = read_pinned(PINNED)
        splits = split_packages(packages, pinned)
        files = build(splits, translations, pinned) | {"documents_eng_Latn": documents(splits)}
        files |= {f"valid_{code}": validation_pairs(splits, known) for code, known in translations.items()}
        lines = {f"{name}.jsonl": list(map(as_json, rows)) for name, rows in files.items()}
        lines["documents_eng_Latn.jsonl.xz"] = lines.pop("documents_eng_Latn.jsonl")
        for code, known in translations.items():
            lines[f"parallel_{code}.tsv.xz"] = [f"{e}\t{f}" for e, f in parallel(splits.free, known).items()]
    written = {}
    for name, found in lines.items():
        path = options.out / name
        content = "".join(f"{line}\n" for line in found).encode()
        write_bytes(path, lzma.compress(content) if path.suffix == ".xz" else content)
        written[name] = {"items": len(found), "sha256": sha256_file(path)}
        console.print(f"{name}: {len(found)} items", highlight=False)
    fetched = [*archives, *english, *(path for paths in translated.values() for path in paths)]
    write_json(
        options.out / "sources.json",
        {"indices": {path.name: sha256_file(path) for path in sorted(fetched)}, "files": written},
    )
    return 0


if __name__ == "__main__":
    run_and_exit(main)
