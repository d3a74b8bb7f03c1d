"""Write the export of a run: `python launchers/export.py RUN OUT`."""

from __future__ import annotations

import argparse
from pathlib import Path

from mtllm_ds.command_line import quiet_libraries, run_and_exit


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Export a run's best checkpoint: connector, adapter, tokenizers, card."
    )
    parser.add_argument("run", type=Path, help="folder of the run (its run.output_dir)")
    parser.add_argument("output", type=Path, help="folder to write; an older export there is replaced")
    parser.add_argument("--step", type=int, help="export this checkpoint instead of the best one")
    options = parser.parse_args()
    from mtllm_ds.checkpoint.export import export_run

    state = export_run(options.run, options.output, options.step)
    figures = ", ".join(f"{name} {value:.4g}" for name, value in state.metrics.items())
    print(f"exported step {state.step} ({figures or 'not validated'}) to {options.output}")
    return 0


if __name__ == "__main__":
    quiet_libraries()
    run_and_exit(main)
