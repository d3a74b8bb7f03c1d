"""The model card of an export, and of a merged LLM: what it is, how to use it, and the licences that travel with it."""

from __future__ import annotations

from pathlib import Path

import yaml

from mtllm_ds.checkpoint.model import Trained
from mtllm_ds.config.names import resolve_model_name
from mtllm_ds.config.sections import ModelSettings
from mtllm_ds.data.shards.manifest import TaskEntry

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
    card = Path(resolve_model_name(name)) / "README.md"
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


def model_card(trained: Trained) -> str:
    """README.md of an export."""
    model, task = trained.model, trained.task
    lines = [
        "---",
        "library_name: mtllm-ds",
        "tags: [multilingual, sentence-embedding, self-distillation]",
        "---",
        f"# {_TITLES[model.reader]}",
        "",
        f"{_reader_line(trained)}{_pooling_line(model)} Trained by `{trained.objective}` for {trained.step} steps.",
        "",
        *([_task_line(task), ""] if task else []),
        "```python",
        "from mtllm_ds import MTLLM",
        'model = MTLLM.from_pretrained("path/of/this/folder")',
        _use_line(task),
        "```",
        "",
        "## Figures of the checkpoint",
        "",
        *_figure_lines(trained),
        "",
        "## Licences",
        "",
        "This folder holds only what was trained. To run it you need its base models, whose licences bind you:",
        "",
        *(
            f"- {_SIDES[side]} `{model.given[side].name}`: {base_licence(model.given[side].name)}"
            for side in model.sides
        ),
        "",
    ]
    return "\n".join(lines)


def merged_card(trained: Trained) -> str:
    """README.md of an LLM with what was trained in its weights."""
    llm = trained.model.given_llm
    both_ways = " It attends in both directions (`is_causal: false`)." if llm.bidirectional else ""
    lines = [
        "---",
        "tags: [sentence-embedding]",
        "---",
        "# Adapted LLM",
        "",
        f"`{llm.name}`{_rounding(trained.model)} with what was trained in its weights, by `{trained.objective}` for "
        f"{trained.step} steps."
        f"{both_ways} Name this folder in `model.llm.name`, or load it with `AutoModel`.",
        "",
        "**It has no language-model head and generates no text**: it is meant for its final states, which are pooled to"
        f" vectors (a text's is {_POOLED[trained.model.pooling]}), and the base model's head was left out."
        " `AutoModelForCausalLM` would put a random head on it.",
        "",
        "## Licences",
        "",
        "This folder holds the weights of its base model, whose licence binds you:",
        "",
        f"- LLM `{llm.name}`: {base_licence(llm.name)}",
        "",
    ]
    return "\n".join(lines)


def language_model_card(trained: Trained, model_class: str) -> str:
    """README.md of a language model that trained with its head."""
    llm, teachers = trained.model.given_llm, {n: b for n, b in trained.bases.items() if n.startswith("teacher_of.")}
    start = "from scratch" if llm.from_scratch else f"from `{llm.name}`{_rounding(trained.model)}"
    lines = [
        "---",
        "library_name: transformers",
        f"pipeline_tag: {'fill-mask' if llm.bidirectional else 'text-generation'}",
        "---",
        "# Language model",
        "",
        f"Trained {start} by `{trained.objective}` for {trained.step} steps"
        f"{f', with {len(teachers)} teachers' if teachers else ''}.",
        "",
        "```python",
        f"from transformers import AutoTokenizer, {model_class}",
        f'model = {model_class}.from_pretrained("path/of/this/folder")',
        'tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")',
        "```",
        "",
        "## Figures of the checkpoint",
        "",
        *_figure_lines(trained),
        "",
        "## Licences",
        "",
        *([] if llm.from_scratch else [f"- it holds weights of `{llm.name}`: {base_licence(llm.name)}"]),
        *(
            f"- it learned {name.removeprefix('teacher_of.')} from `{base['name']}`: {base_licence(str(base['name']))}"
            for name, base in teachers.items()
        ),
        *(["- it holds no weights of another model"] if llm.from_scratch and not teachers else []),
        "",
    ]
    return "\n".join(lines)


def _figure_lines(trained: Trained) -> list[str]:
    return [f"- {name}: {value:.6g}" for name, value in trained.metrics.items()] or ["- not validated"]


_TITLES = {
    "stacked": "Stacked multilingual model",
    "llm": "Adapted LLM",
    "encoder": "Adapted encoder",
}
_SIDES = {"encoder": "encoder", "llm": "LLM"}
_POOLED = {
    "mean": "the mean of its tokens' states",
    "last": "the state of its last token",
    "weighted_mean": "the mean of its tokens' states, of which the i-th weighs i",
}


def _reader_line(trained: Trained) -> str:
    model = trained.model
    how = f"LoRA (rank {model.lora.rank})" if model.trainable == "lora" else "trained weights"
    if model.reader == "stacked":
        changed = ", its top layers trained too," if trained.has_trained_encoder else ""
        return (
            f"The encoder of `{model.given_encoder.name}`{changed} reads the text in any of its languages; a "
            f"{model.connector.type} connector and {how} let `{model.given_llm.name}`{_weights(model)} understand it."
        )
    return f"`{model.given[model.reader].name}`{_weights(model)} reads the text, adapted by {how}."


def _pooling_line(model: ModelSettings) -> str:
    """How states become vectors, where not by their mean."""
    return "" if model.pooling == "mean" else f" A text's vector is {_POOLED[model.pooling]}."


def _weights(model: ModelSettings) -> str:
    """How a reader holds the weights of its language model, where not as they are."""
    is_quantised = "llm" in model.sides and model.given_llm.quantization is not None
    return ", its layers in int8," if is_quantised else ""


def _rounding(model: ModelSettings) -> str:
    """What merged weights of a language model have lost."""
    return ", the weights of its layers rounded to 8 bits," if _weights(model) else ""


def _task_line(task: TaskEntry) -> str:
    kind = task.type.replace("_", " ")
    if task.type == "multiple_choice":
        return f"Its head answers the task `{task.name}` ({kind})."
    return f"Its head answers the task `{task.name}` ({kind}): {', '.join(task.labels)}."


def _use_line(task: TaskEntry | None) -> str:
    if task is None:
        return 'vectors = model.encode(["Guten Morgen"], lang="deu_Latn")'
    if task.type == "multiple_choice":
        return 'number = model.choose("Wer?", ["er", "sie"], lang="deu_Latn", passage="Sie war es.")'
    texts = '[("Es regnet.", "Es ist nass.")]' if task.type == "pair_classification" else '["Guten Morgen"]'
    return f'labels = model.classify({texts}, lang="deu_Latn")'
