"""Train one recipe: `deepspeed launchers/train.py --recipe launchers/recipes/mtllm_stage1.yaml run.max_steps=50`."""

from __future__ import annotations

import argparse
import os

from mtllm_ds.command_line import Parser, positive_int, quiet_libraries, run_and_exit


def parse() -> argparse.Namespace:
    parser = Parser(description="Train a stacked model.", epilog="settings: --print-config lists them all")
    parser.add_argument("--recipe", required=True, help="YAML file of settings")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of run.output_dir")
    parser.add_argument("--print-config", action="store_true", help="print the resolved settings and exit")
    parser.add_argument("--dry-run", action="store_true", help="check everything short of training and exit")
    parser.add_argument(
        "--world-size", type=positive_int, help="ranks that --dry-run plans for (default: those present)"
    )
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # appended by the deepspeed launcher
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that replace the recipe's")
    return parser.parse_intermixed_args()


def main() -> int:
    options = parse()
    from mtllm_ds.config import load_settings, to_yaml

    settings = load_settings(options.recipe, options.overrides)
    if options.print_config:
        print(to_yaml(settings), end="")
        return 0
    if options.dry_run:
        from mtllm_ds.config.seeds import seed_runs
        from mtllm_ds.training.preflight import check_run, describe_plan

        world_size = options.world_size or int(os.environ.get("WORLD_SIZE", "1"))
        for run in seed_runs(settings):
            print(describe_plan(check_run(run, world_size, read_all_shards=True)))
        return 0
    from mtllm_ds.training.runs import train

    return train(settings, resume=options.resume)


if __name__ == "__main__":
    quiet_libraries()
    run_and_exit(main)
