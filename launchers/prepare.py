"""Prepare data for training: `python launchers/prepare.py shards --help`, the same as `mtllm-ds prepare`."""

from mtllm_ds.commands import launch

if __name__ == "__main__":
    launch("prepare")
