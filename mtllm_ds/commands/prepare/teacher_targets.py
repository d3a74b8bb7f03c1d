"""`mtllm-ds prepare teacher-targets`: what a teacher makes of each sample, cached beside the shards."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mtllm_ds.command_line import Subcommands, positive_int

if TYPE_CHECKING:
    from mtllm_ds.data.shards.manifest import Manifest
    from mtllm_ds.teachers.trained import TrainedTeacher


def add_teacher_targets(commands: Subcommands) -> None:
    """`teacher-targets` among the subcommands."""
    targets = commands.add_parser(
        "teacher-targets", help="cache a teacher's vectors beside the shards, on any number of ranks"
    )
    targets.set_defaults(run=run)
    add = targets.add_argument
    add(
        "--teacher",
        required=True,
        metavar="RUN|EXPORT|LLM",
        help="a trained model, or a plain LLM's folder or hub name",
    )
    add("--data", required=True, nargs="+", metavar="DIR", help="prepared shards, local")
    add("--name", required=True, help="name of the target set, for data.targets")
    add("--batch-size", type=positive_int, default=32, help="samples per forward (default %(default)s)")
    add("--precision", choices=("fp32", "bf16"), help="of the forward (default: bf16 on a GPU, else fp32)")
    add("--store", choices=("float32", "float16"), default="float32", help="of the vectors (default %(default)s)")
    plain = targets.add_argument_group("of a plain LLM (a trained model remembers)")
    plain.add_argument("--causal", action="store_true", help="it attends as it was trained, and not in both directions")
    plain.add_argument("--revision", help="commit or tag on the hub (default: that of the shards' tokenizer)")
    plain.add_argument("--trust-remote-code", action="store_true", help="run the code that it may bring")


def run(options: argparse.Namespace) -> None:
    import torch

    from mtllm_ds.cluster.agree import together
    from mtllm_ds.cluster.launch import join_cluster_if_launched, leave_cluster
    from mtllm_ds.data.shards.manifest import Manifest
    from mtllm_ds.data.writing.display import CountDisplay
    from mtllm_ds.teachers.trained import load_teacher
    from mtllm_ds.transfer_sets.teacher_targets import write_targets

    cluster = join_cluster_if_launched()
    precision = options.precision or ("bf16" if cluster.device.type == "cuda" else "fp32")
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    for folder in options.data:

        def load(folder: str = folder) -> tuple[Manifest, TrainedTeacher]:
            manifest = Manifest.load(folder)
            return manifest, load_teacher(
                options.teacher, manifest, cluster.device, dtype, bidirectional=not options.causal,
                revision=options.revision, trust_remote_code=options.trust_remote_code,
            )  # fmt: skip

        manifest, teacher = together(load, cluster.device)
        with CountDisplay(f"targets of {folder}", "samples of this rank", quiet=not cluster.is_main) as display:
            write_targets(
                manifest, options.name, teacher, cluster,
                batch_size=options.batch_size, stored_dtype=options.store, advance=display.advance,
            )  # fmt: skip
        if cluster.is_main:
            print(f"{folder}: targets '{options.name}' of {manifest.num_samples} samples by {teacher.identity.name}")
    leave_cluster()
