"""Models in GGUF files, the format of llama.cpp, unpacked to dense weights at load.

Packed weights can be neither trained through nor saved.
"""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

from mtllm_ds.errors import UserError


def gguf_file(name: str) -> str | None:
    """Name of the GGUF file of a local folder that holds no other weights, None for any other model.

    Raises:
        UserError: the folder holds several, or the package that reads them is not installed.
    """
    folder = Path(name)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return None
    found = sorted(file.name for file in folder.glob("*.gguf"))
    if len(found) > 1:
        raise UserError(f"name={name}: holds several GGUF files ({', '.join(found)}); leave one in the folder")
    if found and importlib.util.find_spec("gguf") is None:
        raise UserError(f"name={name}: a GGUF file needs the package gguf; pip install 'mtllm-ds[gguf]'")
    return found[0] if found else None


def gguf_options(name: str) -> dict[str, Any]:
    """Options of `from_pretrained` that a configuration or tokenizer in a GGUF file needs; none for any other model."""
    file = gguf_file(name)
    return {} if file is None else {"gguf_file": file}


def gguf_weights_options(name: str) -> dict[str, Any]:
    """Options of `from_pretrained` for weights in a GGUF file, which it unpacks; it says so. None for any other model."""
    file = gguf_file(name)
    if file is None:
        return {}
    warnings.warn(
        f"{name}: {file} is unpacked to dense weights; what its quantization rounded stays rounded", stacklevel=3
    )
    try:
        from transformers import GgufConfig
    except ImportError:  # older versions can do nothing but unpack
        return {"gguf_file": file}
    return {"gguf_file": file, "quantization_config": GgufConfig(dequantize=True)}
