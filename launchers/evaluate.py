"""Evaluate on any number of ranks: `deepspeed launchers/evaluate.py model --help`, the same as `mtllm-ds evaluate`."""

from mtllm_ds.commands import launch

if __name__ == "__main__":
    launch("evaluate")
