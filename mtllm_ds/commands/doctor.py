"""`mtllm-ds doctor`: what a run would trip over on this cluster, known in a minute. Started by the launcher that starts the run."""

from __future__ import annotations

from collections.abc import Sequence

from mtllm_ds.command_line import Parser, positive_float, positive_int


def main(arguments: Sequence[str]) -> int:
    """Look, print the table, and fail where something is wrong."""
    parser = Parser(
        prog="mtllm-ds doctor",
        description="Versions equal on all ranks, free disk, a folder that all see, clocks, links between ranks, devices.",
    )
    parser.add_argument("--folder", default="runs", help="where runs will lie (default %(default)s)")
    parser.add_argument("--free-gib", type=positive_float, default=20.0, help="least room there (default %(default)g)")
    parser.add_argument("--mib", type=positive_int, default=64, help="sent per collective (default %(default)s)")
    options = parser.parse_args(arguments)

    from rich.console import Console

    from mtllm_ds.cluster.launch import join_cluster, leave_cluster
    from mtllm_ds.doctor import examine, print_table, require_health

    cluster = join_cluster()
    findings = examine(cluster, options.folder, options.free_gib, options.mib)
    if cluster.is_main:
        print_table(findings, cluster, Console())
    require_health(findings, cluster)
    leave_cluster()
    return 0
