"""One command: one run, or one a seed with a summary over them."""

from __future__ import annotations

import statistics
from pathlib import Path

from rich.console import Console

from mtllm_ds import atomic
from mtllm_ds.checkpoint.retention import folder_to_use
from mtllm_ds.checkpoint.store import checkpoint_root, read_state
from mtllm_ds.cluster.agree import from_main
from mtllm_ds.cluster.launch import Cluster, join_cluster, leave_cluster
from mtllm_ds.config.schema import Settings
from mtllm_ds.config.seeds import seed_runs
from mtllm_ds.observe.profiler import ProfileRequest
from mtllm_ds.preflight.resume import Resume, runs_to_make
from mtllm_ds.training.assemble import run_training
from mtllm_ds.training.preemption import EXIT_PREEMPTED, ignore_requests

SUMMARY = "seeds.json"


def train(settings: Settings, resume: Resume, profile: ProfileRequest | None = None) -> int:
    """Join the ranks, run a recipe once or once a seed, leave; returns the exit status of `run_training`."""
    cluster = join_cluster()
    status = run_seeds(settings, cluster, resume, profile)
    if status == EXIT_PREEMPTED:
        ignore_requests()
    leave_cluster()
    return status


def run_seeds(settings: Settings, cluster: Cluster, resume: Resume, profile: ProfileRequest | None = None) -> int:
    """Every run that the settings ask for, one after the other; ends at the first that was asked to stop."""
    # Which are left is told by rank 0 alone: folders may look different from other machines for a moment.
    for run, goes_on in from_main(lambda: runs_to_make(settings, resume), cluster.device):
        if status := run_training(run, cluster, resume=goes_on, profile=profile):
            return status
    if settings.run.seeds is not None and cluster.is_main:
        _summarize(Path(settings.run.output_dir), seed_runs(settings))
    return 0


def _summarize(folder: Path, runs: list[Settings]) -> None:
    """Mean and standard deviation over the seeds of each best checkpoint's figures, to a file and the screen."""
    best = [folder_to_use(checkpoint_root(run)) for run in runs]
    figures = [read_state(checkpoint).metrics for checkpoint in best if checkpoint is not None]
    summary = {
        name: {
            "mean": statistics.fmean(row[name] for row in figures),
            "standard_deviation": statistics.stdev(row[name] for row in figures) if len(figures) > 1 else 0.0,
            "seeds": {str(run.run.seed): row[name] for run, row in zip(runs, figures, strict=True)},
        }
        for name in (figures[0] if figures else {})
    }
    atomic.write_json(folder / SUMMARY, summary)
    line = ", ".join(f"{name} {row['mean']:.4g} ± {row['standard_deviation']:.2g}" for name, row in summary.items())
    Console().print(
        f"{len(runs)} seeds: {line or 'not validated'}; {folder / SUMMARY}", highlight=False, soft_wrap=True
    )
