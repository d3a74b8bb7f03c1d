"""`mtllm-ds prepare teacher-targets`: what a teacher makes of each sample, vectors or next tokens, cached beside the shards."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, get_args

from mtllm_ds.command_line import Subcommands, positive_float, positive_int
from mtllm_ds.config.sections import Pooling
from mtllm_ds.errors import UserError

if TYPE_CHECKING:
    from mtllm_ds.data.shards.manifest import Manifest
    from mtllm_ds.transfer_sets.teacher_targets import Answering


def add_teacher_targets(commands: Subcommands) -> None:
    """`teacher-targets` among the subcommands."""
    targets = commands.add_parser(
        "teacher-targets",
        help="cache a teacher's vectors, or its next tokens, beside the shards, on any number of ranks",
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
    add("--store", choices=("float32", "float16"), default="float32", help="of the figures (default %(default)s)")
    dialogues = targets.add_argument_group("of dialogues (a plain LLM tells next tokens)")
    dialogues.add_argument("--top-k", type=positive_int, metavar="K", help="likeliest tokens that are kept per place")
    dialogues.add_argument(
        "--temperature", type=positive_float, help="of what it says, objective.temperature of the run (default 1)"
    )
    plain = targets.add_argument_group("of a plain LLM (a trained model remembers)")
    plain.add_argument("--causal", action="store_true", help="it attends as it was trained, and not in both directions")
    plain.add_argument(
        "--pooling", choices=get_args(Pooling), help="its states to vectors, model.pooling of the run (default mean)"
    )
    plain.add_argument("--revision", help="commit or tag on the hub (default: that of the shards' tokenizer)")
    plain.add_argument("--trust-remote-code", action="store_true", help="run the code that it may bring")


def run(options: argparse.Namespace) -> None:
    import torch

    from mtllm_ds.cluster.agree import together
    from mtllm_ds.cluster.launch import join_cluster_if_launched, leave_cluster
    from mtllm_ds.data.shards.manifest import Manifest
    from mtllm_ds.data.writing.display import CountDisplay
    from mtllm_ds.transfer_sets.teacher_targets import write_targets

    cluster = join_cluster_if_launched()
    precision = options.precision or ("bf16" if cluster.device.type == "cuda" else "fp32")
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    kept_as = {"--precision": precision, **({} if options.top_k is None else {"--top-k": options.top_k})}
    for folder in options.data:

        def load(folder: str = folder) -> tuple[Manifest, Answering]:
            manifest = Manifest.load(folder)
            return manifest, _teacher(options, manifest, cluster.device, dtype)

        manifest, teacher = together(load, cluster.device)
        with CountDisplay(f"targets of {folder}", "samples of this rank", quiet=not cluster.is_main) as display:
            write_targets(
                manifest, options.name, teacher, cluster,
                batch_size=options.batch_size, stored_dtype=options.store, kept_as=kept_as, advance=display.advance,
            )  # fmt: skip
        if cluster.is_main:
            print(f"{folder}: targets '{options.name}' of {manifest.num_samples} samples by {teacher.identity.name}")
    leave_cluster()


def _teacher(options: argparse.Namespace, manifest: Manifest, device: Any, dtype: Any) -> Answering:
    from mtllm_ds.teachers.next_tokens import load_next_token_teacher
    from mtllm_ds.teachers.trained import is_trained, load_teacher

    plain = {"revision": options.revision, "trust_remote_code": options.trust_remote_code}
    if options.top_k is None:
        if options.temperature is not None:
            raise UserError(f"--temperature={options.temperature}: has no effect without --top-k; leave it out")
        if is_trained(options.teacher):
            _refuse_unread(
                options, ("causal", "pooling", "revision", "trust_remote_code"), "on a trained model, which remembers"
            )
        how: dict[str, Any] = {"bidirectional": not options.causal, "pooling": options.pooling or "mean"}
        return load_teacher(options.teacher, manifest, device, dtype, **how, **plain)
    _refuse_unread(
        options, ("causal", "pooling"), "with --top-k, as next tokens are told by each token, looking back only"
    )
    return load_next_token_teacher(
        options.teacher, manifest, device, dtype,
        num_kept=options.top_k, temperature=1.0 if options.temperature is None else options.temperature, **plain,
    )  # fmt: skip


def _refuse_unread(options: argparse.Namespace, names: Iterable[str], why: str) -> None:
    for name in names:
        if value := getattr(options, name):
            shown = "" if value is True else f"={value}"
            raise UserError(f"--{name.replace('_', '-')}{shown}: has no effect {why}; leave it out")
