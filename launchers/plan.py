"""Plan a run for a cluster that is not there: `python launchers/plan.py --recipe mtllm_stage1 --nodes 4`, as `mtllm-ds plan`."""

from mtllm_ds.commands import launch

if __name__ == "__main__":
    launch("plan")
