"""The model card of an export: what it is, how to use it, and the licences that travel with it."""

from __future__ import annotations

from pathlib import Path

import yaml

from mtllm_ds.checkpoint.store import CheckpointState
from mtllm_ds.config.schema import Settings

# Base models whose licence is known without asking a hub; by the start of the name's last part.
_KNOWN = {
    "nllb-200": "CC-BY-NC-4.0 (no commercial use)",
    "Llama-2": "Llama 2 Community License",
    "Meta-Llama-3": "Meta Llama 3 Community License",
    "Llama-3": "Llama 3 Community License",
    "madlad400": "Apache-2.0",
    "gemma": "Gemma Terms of Use",
}


def base_licence(name: str) -> str:
    """Licence of a base model: from the card in its folder, else by its well-known name, else where to look."""
    card = Path(name) / "README.md"
    if card.is_file():
        parts = card.read_text(encoding="utf-8").split("---\n")
        header = yaml.safe_load(parts[1]) if len(parts) > 2 and not parts[0].strip() else None
        if isinstance(header, dict) and header.get("license"):
            return str(header["license"])
    last = name.rstrip("/").rsplit("/", 1)[-1]
    for start, licence in _KNOWN.items():
        if last.lower().startswith(start.lower()):
            return licence
    return "not stated: see the model's own page"


def model_card(settings: Settings, state: CheckpointState) -> str:
    """README.md of an export."""
    model = settings.model
    lines = [
        "---",
        "library_name: mtllm-ds",
        "tags: [multilingual, sentence-embedding, self-distillation]",
        "---",
        "# Stacked multilingual model",
        "",
        f"The encoder of `{model.encoder.name}` reads the text in any of its languages; a {model.connector.type} connector"
        f" and LoRA (rank {model.lora.rank}) let `{model.llm.name}` understand it. Trained by `{settings.objective.name}`"
        f" for {state.step} steps.",
        "",
        "```python",
        "from mtllm_ds import MTLLM",
        'model = MTLLM.from_pretrained("path/of/this/folder")',
        'vectors = model.encode(["Guten Morgen"], lang="deu_Latn")',
        "```",
        "",
        "## Figures of the checkpoint",
        "",
        *([f"- {name}: {value:.6g}" for name, value in state.metrics.items()] or ["- not validated"]),
        "",
        "## Licences",
        "",
        "This folder holds only the connector and the adapter. To run it you need both base models, whose licences bind you:",
        "",
        f"- encoder `{model.encoder.name}`: {base_licence(model.encoder.name)}",
        f"- LLM `{model.llm.name}`: {base_licence(model.llm.name)}",
        "",
    ]
    return "\n".join(lines)
