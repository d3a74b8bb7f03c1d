"""Train one recipe: `deepspeed launchers/train.py --recipe mtllm_stage1 run.max_steps=50`, the same as `mtllm-ds train`."""

from mtllm_ds.commands import launch

if __name__ == "__main__":
    launch("train")
