"""Look at a cluster before a run: `torchrun --nproc-per-node 8 launchers/doctor.py`, the same as `mtllm-ds doctor`."""

from mtllm_ds.commands import launch

if __name__ == "__main__":
    launch("doctor")
