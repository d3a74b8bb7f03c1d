"""Translate the items of a task: `python launchers/translate.py --help`, the same as `mtllm-ds translate`."""

from mtllm_ds.commands import launch

if __name__ == "__main__":
    launch("translate")
