"""A trained model for users: `MTLLM`."""

from mtllm_ds.inference.given import PlainItem
from mtllm_ds.inference.model import MTLLM

__all__ = ["MTLLM", "PlainItem"]
