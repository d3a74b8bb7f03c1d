"""Write responses to prompts: `deepspeed launchers/generate.py --help`, the same as `mtllm-ds generate`."""

from mtllm_ds.commands import launch

if __name__ == "__main__":
    launch("generate")
