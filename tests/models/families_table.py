"""`docs/families.md`: what was measured of every tested family. `python -m tests.models.families_table` writes it anew."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mtllm_ds import atomic
from tests.models.encoder_families import ENCODERS, EncoderFamily
from tests.models.families import LLMS, Family
from tests.models.measuring import Measured, measure

PAGE = Path(__file__).parents[2] / "docs" / "families.md"

HEAD = """# Models that can be brought

Written by `python -m tests.models.families_table` from what the tests measure on tiny models of each family; a test compares it.
Other families load too: whatever `AutoModel` of transformers knows. Before any weight is loaded, every LLM is *probed*: its own
class, at toy size and with random weights, is asked whether position 0 sees the last token, whether right padding changes a state,
and whether two texts in one row have the states they have alone. `--dry-run` prints the answer; a setting that it makes untrue is
refused in one line.

## LLMs (`model.llm`)

- *both ways*: what `model.llm.bidirectional: true` gives. **no**: refused by name, set it to false. *always*: an encoder.
- *packed rows*: whether token budgets (`data.llm_tokens_per_cell`) may be used.
- *stacked*: whether an encoder's states can be put in (`model.reader: stacked`); the LLM alone can be trained anyway.
- *SimCSE*: whether `objective.attention_dropout` finds dropout of attention weights (flash attention 4 has none).
- *8 bits*: whether `model.llm.quantization: int8` holds; **no**: refused by name (matrices outside of `nn.Linear`, as experts).
- Right padding changes no state of any of them; none keeps dropout of its own when frozen.

| family | published class | text model | both ways | packed rows | stacked | SimCSE | 8 bits | notes |
|---|---|---|---|---|---|---|---|---|
"""

ENCODERS_HEAD = """
## Encoders (`model.encoder`)

The encoder alone is loaded: no decoder, no head, no vision tower. Its states are those of the whole model, its ids those of
transformers (both are tested).

| family | published class | `model_type` | around a text | notes |
|---|---|---|---|---|
"""

TAIL = """
The family of a tokenizer of another class is told by the model's `config.json`; where that tells nothing,
`prepare.py --encoder-family` does, and the run and its exports remember it. Family `own` is whatever the tokenizer itself puts
around a text. GTE checkpoints with code of their own (`model_type` `new`) need `model.encoder.trust_remote_code: true`.

## GGUF

A folder with one `.gguf` file and no safetensors loads as LLM or encoder: its weights are unpacked to dense ones (`pip install
'mtllm-ds[gguf]'`), and a line says so. What its quantization rounded stays rounded.
"""


def row_of(family: Family, found: Measured) -> str:
    """One line of the table of LLMs."""
    ways = "**no**" if family.refused else "always" if family.note.startswith("an encoder") else "yes"
    cells = (
        family.title,
        f"`{family.whole_class}`",
        f"`{type(found.model).__name__}`",
        ways,
        _said(found.packs),
        _said(found.takes_embeddings),
        _said(found.takes_attention_dropout),
        "yes" if found.takes_8_bits else "**no**",
        family.note,
    )
    return f"| {' | '.join(cells)} |"


def encoder_row(family: EncoderFamily) -> str:
    """One line of the table of encoders."""
    cells = (
        family.title, f"`{family.whole_class}`", f"`{family.config().model_type}`", f"`{family.template}`", family.note,
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def page(llm_rows: list[str]) -> str:
    """The whole page."""
    encoder_rows = [encoder_row(family) for family in ENCODERS.values()]
    return HEAD + "\n".join(llm_rows) + "\n" + ENCODERS_HEAD + "\n".join(encoder_rows) + "\n" + TAIL


def _said(found: bool) -> str:
    return "yes" if found else "no"


def main() -> None:
    rows = []
    for family in LLMS.values():
        with tempfile.TemporaryDirectory() as folder:
            rows.append(row_of(family, measure(family, family.save(Path(folder)))))
    PAGE.parent.mkdir(exist_ok=True)
    atomic.write_text(PAGE, page(rows))


if __name__ == "__main__":
    main()
