"""The cards of the embedded assets, filled from measured figures."""

MPL_NOTICE = (
    "Made from the help text of LibreOffice, Copyright the LibreOffice contributors, which is subject to the terms of the\n"
    "Mozilla Public License, v. 2.0. If a copy of the MPL was not distributed with this file, you can obtain one at\n"
    "https://mozilla.org/MPL/2.0/. The source text is in Debian's source package `libreoffice`."
)


def _parameters(model) -> str:
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters"


def _chrf(value: float | None) -> str:
    return "not trained" if value is None else f"{value:.1f}"


def _time_of(run: dict) -> str:
    """What the seconds of a run count; cards of before there was a choice are of CPUs."""
    return "of CPU time on 2 shared cores" if run.get("device", "cpu") == "cpu" else "on one GPU"


def _note(run: dict) -> str:
    return f" ({run['note']})" if "note" in run else ""


def text_card(rows: dict[str, int]) -> str:
    listed = "\n".join(f"| `{name}.jsonl.xz` | {count} |" for name, count in rows.items())
    return f"""# Text sample: LibreOffice help, real human translations

| file | rows |
|---|---|
{listed}

- `stage1_*`: English paragraphs (`page`, `text`) for stage 1; train and valid are different pages.
- `topics_*`: which application is a paragraph about (`id`, `group`, `page`, `label`, `text`; in translated tests `text_en`)?
  The 454 test items are the same in every language; resample by `group`.
- `parallel_*`: pairs (`text_en`, `text`), for tests of chrF and retrieval; validation segments first, held out of the MT model.

No test item stands in any other file. Rebuild: `python -m benchmarks.quality.text.fetch_help_text --out FOLDER`, then
`python -m benchmarks.quality.bases.write_assets --data FOLDER --text`.

## Licence

MPL-2.0 (`LICENSE`), unlike the rest of this repository. {MPL_NOTICE}
"""


def mt_card(figures: dict, model) -> str:
    config = model.config
    lines = "\n".join(
        f"| {code} | {_chrf(row['chrf'])} | {row['retrieval']:.3f} | {row['offset']:.2f} | {row['n']} |"
        for code, row in figures["languages"].items()
    )
    stages = {
        "ranking": "ranking of translations by pooled encoder states",
        "ranking and translation": "ranking, translation in both directions, and English from English",
        "decoder": "translation in both directions, decoder alone, the encoder as it was (an earlier script)",
    }
    runs = "\n".join(
        f"- {stages[run['what']]}: {run['core_seconds']:.0f} seconds {_time_of(run)}, {run['steps']} steps{_note(run)}"
        for run in figures["runs"]
    )
    return f"""# Tiny machine-translation model

M2M100 architecture ({config.encoder_layers} encoder and {config.decoder_layers} decoder layers, {config.d_model} wide,
{_parameters(model)}, bf16), NLLB-style tokenizer (`[tag] x </s>`), languages eng_Latn, {", ".join(figures["languages"])}.
It exists so that the demo and the tests run offline; it is no translator for people.

## Data and training

Help text of LibreOffice in Debian (`benchmarks/quality/text/fetch_help_text.py`), test items and their segments left out.
`benchmarks/quality/bases/train_mt.py`, Hugging Face's trainer:

{runs}

## Measured on the 454 test items (`figures.json`, greedy decoding, sacrebleu)

| language | chrF into English | encoder retrieval of the original among 454 | offset (0: pairs coincide, 2: unrelated) | n |
|---|---|---|---|---|
{lines}

Retrieval: cosine of mean-pooled encoder states after each side's mean is subtracted. Offset: squared distance of the states of
a pair over the variance of the English ones.

## Licence

Weights: MPL-2.0, as the text they were made from. {MPL_NOTICE}
"""


def llama_card(figures: dict, model) -> str:
    config, training = model.config, figures["training"]
    steps, seconds = (sum(run[name] for run in training["runs"]) for name in ("steps", "core_seconds"))
    return f"""# Tiny English Llama

Llama architecture ({config.num_hidden_layers} layers, {config.hidden_size} wide, {_parameters(model)}, tied embeddings, bf16), BPE
tokenizer with template `<bos> x`. A plain causal model: read it with `model.llm.bidirectional: false`. It exists so that the demo
and the tests run offline; it is no writer.

## Data and training

{training["tokens"]} tokens of English help pages of LibreOffice in Debian, pages of the test left out.
`benchmarks/quality/bases/train_llama.py`, Hugging Face's trainer, next tokens,
{steps} steps, {seconds:.0f} seconds {_time_of(training["runs"][-1])}{"".join(map(_note, training["runs"][:1]))}.

## Measured on English validation items (`figures.json`)

A logistic regression on mean-pooled final hidden states, fitted on the 3,596 English training items of `assets/text`, names the
application of {figures["topic_accuracy"]:.1%} of the 294 validation items.

## Licence

Weights: MPL-2.0, as the text they were made from. {MPL_NOTICE}
"""
