"""`mtllm-ds plan --recipe mtllm_stage1 --nodes 4 --gpu h200`: memory, traffic and time of a run, without weights or a GPU."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from mtllm_ds.command_line import Parser, positive_int
from mtllm_ds.errors import UserError


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="mtllm-ds plan",
        description="What a run needs on a cluster: memory of a GPU, bytes and seconds of a step, and what would change them.",
        epilog="of the models their config.json alone is read",
    )
    parser.add_argument("--recipe", required=True, help="name of a recipe that ships, or a YAML file of settings")
    parser.add_argument("--nodes", type=positive_int, default=1, help="(default %(default)s)")
    parser.add_argument("--gpus-per-node", type=positive_int, default=8, help="(default %(default)s)")
    parser.add_argument(
        "--gpu", choices=("a100", "h100", "h200", "b200"), default="h200", help="by its datasheet (default %(default)s)"
    )
    for side in ("encoder", "llm"):
        parser.add_argument(
            f"--{side}-tokens",
            type=positive_int,
            help=f"of a sample on that side (default model.{side}.max_length)",
        )
    parser.add_argument(
        "--compute-utilisation", type=_share, default=0.5, help="of the datasheet's products (default %(default)s)"
    )
    parser.add_argument(
        "--bandwidth-utilisation", type=_share, default=0.8, help="of the datasheet's bandwidths (default %(default)s)"
    )
    parser.add_argument(
        "--measured-step",
        type=_seconds,
        metavar="SECONDS",
        help="that a step of this recipe took on --measured-gpus of these GPUs: operators are planned as slow as that says",
    )
    parser.add_argument("--measured-gpus", type=positive_int, help="(default 1)")
    parser.add_argument("--output", type=Path, help="folder for plan.json and scaling.png (8 to 4,096 GPUs)")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that replace the recipe's")
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Print the plan, and write it where that was asked for."""
    options = parse(arguments)
    from mtllm_ds import atomic
    from mtllm_ds.config import load_settings
    from mtllm_ds.observe.gpus import GPUS
    from mtllm_ds.planning.calibrate import calibrated
    from mtllm_ds.planning.hardware import Machine
    from mtllm_ds.planning.paper import text_of
    from mtllm_ds.planning.plan import Planner
    from mtllm_ds.planning.report import as_json, as_text, draw_scaling

    if options.measured_gpus is not None and options.measured_step is None:
        raise UserError(
            f"--measured-gpus={options.measured_gpus}: has no effect without --measured-step; give that or leave it out"
        )
    if options.output is not None:
        _make_folder(options.output)
    settings = load_settings(options.recipe, options.overrides)
    machine = Machine(
        gpu=GPUS[options.gpu],
        num_nodes=options.nodes,
        gpus_per_node=options.gpus_per_node,
        compute_utilisation=options.compute_utilisation,
        bandwidth_utilisation=options.bandwidth_utilisation,
    )
    text = text_of(settings, options.encoder_tokens, options.llm_tokens)
    tokens = {side: getattr(text, f"{side}_tokens") for side in settings.model.given}
    said: dict[str, object] = {
        "recipe": options.recipe,
        **{f"{side} tokens of a sample": count for side, count in tokens.items()},
    }
    planner = Planner(settings, text)
    if options.measured_step is not None:
        num_gpus = options.measured_gpus or 1
        machine = calibrated(planner, machine, num_gpus, options.measured_step)
        said |= {"measured": f"{options.measured_step:g} s per step on {num_gpus} GPUs"}
    own = planner.plan(machine)
    variants = dict(planner.variants(own))
    print(as_text(own, variants, said, planner.warnings))
    if options.output is not None:
        scaling = planner.scaling(own)
        figures = as_json(own, variants, scaling, said)
        atomic.write_text(options.output / "plan.json", json.dumps(figures, indent=2) + "\n")
        picture = draw_scaling(scaling, f"{options.recipe} on {machine.gpus_per_node} {options.gpu} a node")
        atomic.write_bytes(options.output / "scaling.png", picture)
        print(f"wrote       {options.output / 'plan.json'} and {options.output / 'scaling.png'}")
    return 0


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output={folder}: cannot be made ({error.strerror}); choose another folder") from error


def _seconds(text: str) -> float:
    """A number above 0, below infinity."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is no number of seconds above 0")
    return number


def _share(text: str) -> float:
    """A number above 0, and at most 1."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no number above 0 and at most 1")
    return number
