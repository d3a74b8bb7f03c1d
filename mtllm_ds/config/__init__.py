"""Typed settings: one model a section, YAML recipes with dotted overrides, every DeepSpeed `auto` resolved."""

from mtllm_ds.config.load import load_settings, to_yaml
from mtllm_ds.config.schema import Settings

__all__ = ["Settings", "load_settings", "to_yaml"]
