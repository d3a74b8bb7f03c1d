"""Who am I among the ranks: started by `deepspeed`, `torchrun`, SLURM's `srun`, `mpirun`, or alone."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from mtllm_ds.errors import UserError

# Start-up reads weights and saving writes them: both may take longer than a step ever should.
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
NO_TIMEOUT = timedelta(days=3650)
"""Collectives know no other word for it."""


@dataclass(frozen=True)
class Cluster:
    """One rank's place: `device` is its own accelerator, or the CPU."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def join_cluster() -> Cluster:
    """Join the process group (once) and return this rank's place in it."""
    _fill_environment()
    local_rank = int(os.environ["LOCAL_RANK"])
    use_cuda = torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu"
    if not use_cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    if not dist.is_initialized():
        if use_cuda:
            torch.cuda.set_device(local_rank)
        else:
            _leave_out_shared_memory_op()
        try:
            deepspeed.init_distributed(
                dist_backend="nccl" if use_cuda else "gloo",
                timeout=COLLECTIVE_TIMEOUT,
                verbose=False,
                auto_mpi_discovery=False,
            )
        except dist.DistNetworkError as error:
            if "EADDRINUSE" not in str(error):
                raise
            raise UserError(
                f"MASTER_PORT={os.environ['MASTER_PORT']}: the port is in use, perhaps by another run; "
                "give the launcher a free one, as in deepspeed --master_port 29501"
            ) from error
    device = torch.device("cuda", local_rank) if use_cuda else torch.device("cpu")
    return Cluster(rank=dist.get_rank(), world_size=dist.get_world_size(), local_rank=local_rank, device=device)


def join_cluster_if_launched() -> Cluster:
    """As `join_cluster`; a process that no launcher started is alone and joins nothing."""
    if "RANK" in os.environ or any(
        int(os.environ.get(name, "1")) > 1 for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
    ):
        return join_cluster()
    return Cluster(rank=0, world_size=1, local_rank=0, device=device_alone())


def device_alone(name: str | None = None) -> torch.device:
    """The device of a process without ranks: the one that is named, else the accelerator, or the CPU.

    Raises `UserError` if this machine has no such device.
    """
    if name is None:
        use_cuda = torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu"
        return torch.device("cuda", 0) if use_cuda else torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without it
        raise UserError(f"device '{name}': this machine has none such; name cpu or cuda:0, or leave it out") from error
    return device


def set_collective_timeout(timeout: timedelta) -> None:
    """How long collectives that begin from now on may take, in all groups of this process."""
    for group in list(dist.distributed_c10d._world.pg_map):
        dist.distributed_c10d._set_pg_timeout(timeout, group)


def leave_cluster() -> None:
    """Leave the process group, if one was joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _leave_out_shared_memory_op() -> None:
    """Keep DeepSpeed from compiling its shared-memory collective at start: only its inference engine ever calls it.

    Without this every first start needs a C++ compiler and half a minute, and a killed one leaves a lock that hangs the next.
    """
    from deepspeed import ops

    ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _fill_environment() -> None:
    """Give every launcher's variables the names that torch.distributed reads."""
    env = os.environ
    if "RANK" not in env and "SLURM_PROCID" in env and int(env.get("SLURM_NTASKS", "1")) > 1:
        env["RANK"] = env["SLURM_PROCID"]
        env["WORLD_SIZE"] = env["SLURM_NTASKS"]
        env["LOCAL_RANK"] = env["SLURM_LOCALID"]
        env.setdefault("MASTER_ADDR", _first_host(env.get("SLURM_STEP_NODELIST", env.get("SLURM_NODELIST", ""))))
    if "RANK" not in env and "OMPI_COMM_WORLD_RANK" in env:
        if int(env["OMPI_COMM_WORLD_SIZE"]) > 1 and "MASTER_ADDR" not in env:
            raise UserError(
                "MASTER_ADDR: mpirun tells no rank where rank 0 is; pass it on, as in mpirun -x MASTER_ADDR=HOST or a line "
                "of .deepspeed_env"
            )
        env["RANK"] = env["OMPI_COMM_WORLD_RANK"]
        env["WORLD_SIZE"] = env["OMPI_COMM_WORLD_SIZE"]
        env["LOCAL_RANK"] = env["OMPI_COMM_WORLD_LOCAL_RANK"]
        env["LOCAL_SIZE"] = env["OMPI_COMM_WORLD_LOCAL_SIZE"]
    for name, alone in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"), ("MASTER_ADDR", "127.0.0.1")):
        env.setdefault(name, alone)
    # DeepSpeed's CPU collectives count the ranks of a node in LOCAL_SIZE; only its own launcher sets it.
    env.setdefault("LOCAL_SIZE", env.get("LOCAL_WORLD_SIZE", env["WORLD_SIZE"]))
    # Alone, any free port will do: two runs on one machine then do not meet. Ranks of SLURM must agree without talking.
    env.setdefault("MASTER_PORT", _free_port() if env["WORLD_SIZE"] == "1" else "29500")


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def _first_host(nodelist: str) -> str:
    """First host of a SLURM node list: `gpu[03-05,09]` -> `gpu03`."""
    head, bracket, rest = nodelist.partition("[")
    if "," in head or not bracket:
        return head.split(",")[0] or "127.0.0.1"
    return head + rest.split("]")[0].split(",")[0].split("-")[0]
