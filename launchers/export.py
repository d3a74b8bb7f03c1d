"""Write the export of a run: `python launchers/export.py RUN OUT`, the same as `mtllm-ds export`."""

from mtllm_ds.commands import launch

if __name__ == "__main__":
    launch("export")
