"""`mtllm-ds train --recipe mtllm_stage1 run.max_steps=50`: train one recipe, on the ranks that a launcher started or alone."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtllm_ds.command_line import Parser, positive_int

if TYPE_CHECKING:
    from mtllm_ds.config.schema import Settings
    from mtllm_ds.observe.profiler import ProfileRequest
    from mtllm_ds.preflight.resume import Resume


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="mtllm-ds train", description="Train a stacked model.", epilog="settings: --print-config lists them all"
    )
    parser.add_argument("--recipe", required=True, help="name of a recipe that ships, or a YAML file of settings")
    what = "go on from the newest checkpoint of run.output_dir; auto: from the newest whole one, or begin where there is none yet"
    parser.add_argument("--resume", nargs="?", const=True, default=False, choices=["auto"], metavar="auto", help=what)
    parser.add_argument("--print-config", action="store_true", help="print the resolved settings and exit")
    parser.add_argument("--dry-run", action="store_true", help="check everything short of training and exit")
    parser.add_argument(
        "--world-size", type=positive_int, help="ranks that --dry-run plans for (default: those present)"
    )
    what = "trace steps FIRST to END - 1 of rank 0 (with ',ranks=all' of all) into the run's folder"
    parser.add_argument("--profile", metavar="steps=FIRST:END", help=what)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that replace the recipe's")
    return parser.parse_intermixed_args(_with_plain_resume(arguments))


def _with_plain_resume(arguments: Sequence[str]) -> list[str]:
    """`--resume` without `auto` takes nothing of what follows: the first setting behind it is a setting."""
    words = list(arguments)
    for place, (word, following) in enumerate(zip(words, [*words[1:], ""], strict=True)):
        if word == "--resume" and following != "auto":
            return [*words[:place], *words[place + 1 :], "--resume"]
    return words


def main(arguments: Sequence[str]) -> int:
    """Train, or only show or check what would be trained."""
    options = parse(arguments)
    from mtllm_ds.config import load_settings, to_yaml
    from mtllm_ds.observe.profiler import ProfileRequest

    settings = load_settings(options.recipe, options.overrides)
    request = None if options.profile is None else ProfileRequest.parse(options.profile)
    if options.print_config:
        print(to_yaml(settings), end="")
        return 0
    if options.dry_run:
        _check(settings, options.world_size or int(os.environ.get("WORLD_SIZE", "1")), options.resume, request)
        return 0
    from mtllm_ds.training.runs import train

    return train(settings, resume=options.resume, profile=request)


def _check(settings: Settings, world_size: int, resume: Resume, profile: ProfileRequest | None) -> None:
    """All that a run of these settings would be refused for before it loads a weight; nothing is written."""
    from mtllm_ds.checkpoint.store import checkpoint_root
    from mtllm_ds.planning.this_machine import layout_lines
    from mtllm_ds.preflight.plan import describe_plan
    from mtllm_ds.preflight.resume import (
        check_whole_run,
        find_checkpoint,
        open_checkpoint,
        require_fit_folder,
        runs_to_make,
    )

    runs = runs_to_make(settings, resume)
    for run, goes_on in runs:
        root = checkpoint_root(run)
        newest, damaged, lines = find_checkpoint(root, goes_on)
        state = open_checkpoint(root, newest)[1] if newest is not None else None
        if profile is not None:
            profile.check(0 if state is None else state.step, run.run.max_steps)
        require_fit_folder(root, state, damaged)
        for line in lines:
            print(line)
        plan = check_whole_run(run, world_size, state, read_all_shards=True)
        print("\n".join([*layout_lines(run, world_size), describe_plan(plan)]))
    if not runs:
        print("every seed is finished; nothing is left to train")
