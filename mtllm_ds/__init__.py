"""Distributed training that stacks a machine-translation encoder on an English-centric LLM by self-distillation."""

__version__ = "0.1.0"
