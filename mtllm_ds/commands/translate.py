"""`mtllm-ds translate`: the items of a task through a seq2seq MT model, into a task folder that every other command reads.

mtllm-ds translate test --task lohelp_sample --mt assets/mt --beams 4 --output DIR   # test items into English
mtllm-ds translate train --task lohelp_sample --mt assets/mt --output DIR            # English into each language
mtllm-ds translate round-trip --task lohelp_sample --mt assets/mt --output DIR       # through a language and back
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mtllm_ds.command_line import Parser, add_precision, positive_float, positive_int
from mtllm_ds.errors import UserError

if TYPE_CHECKING:
    import torch

    from mtllm_ds.cluster.launch import Cluster
    from mtllm_ds.evaluation.items.items import Item
    from mtllm_ds.evaluation.items.tasks import Split, Task
    from mtllm_ds.evaluation.items.translated import Translate

    Direction = Callable[[str, str], Translate]
    Load = Callable[..., list[Item]]
    Folders = dict[Path, dict[tuple[Split, str], list[Item]]]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="mtllm-ds translate",
        description="Translate the items of a task, field by field and sentence by sentence.",
    )
    parser.add_argument("what", choices=("test", "train", "round-trip"))
    add = parser.add_argument
    add("--task", required=True, help="name of a task that ships, or a YAML file")
    add("--mt", required=True, help="MT model: hub name, local folder, or command:'PROGRAM ...'")
    add("--mt-revision")
    add("--languages", nargs="+", default=["all"], metavar="CODE", help="FLORES-200 codes (default: all but English)")
    add("--readings", nargs="+", default=["plain"], choices=("plain", "masked_before", "masked_after"),
        help="test: copy-masked before or after the translation; a folder each")  # fmt: skip
    add("--beams", type=positive_int, default=1, help="1 is greedy (default)")
    add(
        "--max-length",
        type=positive_int,
        default=128,
        help="most tokens of a sentence; a longer one is cut (default %(default)s)",
    )
    add("--batch-size", type=positive_int, default=64, help="sentences at once (default %(default)s)")
    add_precision(parser, "fp32", "; in bf16 a wording may depend on what shares its batch")
    add("--items", type=positive_int, help="draw that many items a split and language")
    add(
        "--items-per-language",
        type=positive_int,
        help="train: so many of them into each language, others for each (default: all)",
    )
    add("--data", help="folder or hub name, if not where the task says")
    add(
        "--cache", type=Path, default=Path("runs/translations"), help="translations are kept here (default %(default)s)"
    )
    add("--time-out", type=positive_float, metavar="SECONDS", help="of a command, for 256 sentences (default 600)")
    add("--output", type=Path, required=True, metavar="DIR")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Translate, on any number of ranks."""
    options = parse(arguments)
    from mtllm_ds.evaluation.items.tasks import load_task
    from mtllm_ds.languages import ENGLISH

    task = load_task(options.task).located(options.data)
    languages = [code for code in task.select(options.languages) if code != ENGLISH]
    from mtllm_ds.atomic import write_json
    from mtllm_ds.cluster.agree import from_main, together
    from mtllm_ds.cluster.launch import join_cluster_if_launched, leave_cluster
    from mtllm_ds.cluster.precision import reading_dtype
    from mtllm_ds.evaluation.items.translated import write_task

    cluster = join_cluster_if_launched()
    dtype = from_main(lambda: reading_dtype(options.precision, cluster.device), cluster.device)
    translate = together(lambda: _translator(options, cluster, dtype), cluster.device)
    began = time.perf_counter()
    folders = {"test": _test, "train": _train, "round-trip": _round_trip}[options.what](
        options, task, languages, translate, _loader(cluster)
    )
    if cluster.is_main:
        read_as = dict.fromkeys(languages, ENGLISH) if options.what == "test" else {}
        for folder, found in folders.items():
            print(f"wrote {write_task(folder, task, found, read_as)}")
        count = sum(len(items) for found in folders.values() for items in found.values())
        seconds = time.perf_counter() - began
        write_json(
            options.output / "translation.json", {"seconds": seconds, "num_items": count, "beams": options.beams}
        )
    leave_cluster()
    return 0


def _test(
    options: argparse.Namespace, task: Task, languages: Sequence[str], translate: Direction, load: Load
) -> Folders:
    """Foreign test items in English, a folder a reading."""
    from mtllm_ds.evaluation.items.translated import read_in_english
    from mtllm_ds.languages import ENGLISH

    items = {code: load(task, "test", code, limit=options.items) for code in languages}
    return {
        options.output / reading: {
            ("test", code): read_in_english(items[code], translate(task.tag_of(code), ENGLISH), reading)
            for code in languages
        }
        for reading in options.readings
    }


def _train(
    options: argparse.Namespace, task: Task, languages: Sequence[str], translate: Direction, load: Load
) -> Folders:
    """English training items, and the same in each language; validation stays English."""
    from mtllm_ds.evaluation.items.translated import some_of, translated
    from mtllm_ds.languages import ENGLISH

    found = _english(options, task, load)
    training = found["train", ENGLISH]
    return {
        options.output: found
        | {
            ("train", code): translated(
                some_of(training, options.items_per_language, code), translate(ENGLISH, task.tag_of(code))
            )
            for code in languages
        }
    }


def _round_trip(
    options: argparse.Namespace, task: Task, languages: Sequence[str], translate: Direction, load: Load
) -> Folders:
    """English training and validation items, each through one of the languages and back."""
    from mtllm_ds.evaluation.items.translated import round_trip
    from mtllm_ds.languages import ENGLISH

    def through(code: str) -> Translate:
        there, back = translate(ENGLISH, task.tag_of(code)), translate(task.tag_of(code), ENGLISH)
        return lambda texts: back(there(texts))

    english = _english(options, task, load)
    return {options.output: {place: round_trip(items, languages, through) for place, items in english.items()}}


def _english(options: argparse.Namespace, task: Task, load: Load) -> dict[tuple[Split, str], list[Item]]:
    from mtllm_ds.languages import ENGLISH

    splits: tuple[Split, ...] = ("train", "valid")
    return {(split, ENGLISH): load(task, split, limit=options.items) for split in splits}


def _loader(cluster: Cluster) -> Load:
    """`load_items`, of which a mistake on one rank stops all."""
    from mtllm_ds.cluster.agree import together
    from mtllm_ds.evaluation.items.items import load_items

    return lambda *place, **options: together(lambda: load_items(*place, **options), cluster.device)


def _translator(options: argparse.Namespace, cluster: Cluster, dtype: torch.dtype) -> Direction:
    """(source, target) -> a function that translates texts, with a bar on the main rank."""
    from rich.progress import Progress

    from mtllm_ds.transfer_sets.translation.engines import load_engine
    from mtllm_ds.transfer_sets.translation.mt_model import Decoding
    from mtllm_ds.transfer_sets.translation.translator import Translator

    decoding = Decoding(num_beams=options.beams, max_source_tokens=options.max_length)
    engine = load_engine(
        options.mt, option="--mt", decoding=decoding, batch_size=options.batch_size, revision=options.mt_revision,
        device=cluster.device, dtype=dtype, time_out_seconds=_time_out_seconds(options),
    )  # fmt: skip
    translator = Translator(engine, options.cache, device=cluster.device)

    def direction(source: str, target: str) -> Translate:
        def translate(texts: Sequence[str]) -> list[str]:
            with Progress(transient=True, disable=not cluster.is_main) as bar:
                task = bar.add_task(f"{source} -> {target}", total=None)
                return translator.translate(
                    texts, source, target, progress=lambda done, total: bar.update(task, completed=done, total=total)
                )

        return translate

    return direction


def _time_out_seconds(options: argparse.Namespace) -> float:
    from mtllm_ds.transfer_sets.translation.command import PREFIX, TIME_OUT_SECONDS

    if options.time_out is None:
        return TIME_OUT_SECONDS
    if not options.mt.startswith(PREFIX):
        raise UserError(f"--time-out={options.time_out:g}: has no effect without --mt {PREFIX}'PROGRAM ...'; remove it")
    return options.time_out
