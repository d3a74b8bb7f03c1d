"""Greedy translation with a seq2seq model, and its chrF."""

import sacrebleu
import torch

from benchmarks.quality.mt_objective import pad


@torch.no_grad()
def translate(model, tokenizer, texts: list[str], source: str, target: str, batch_size: int = 64) -> list[str]:
    """Greedy translations of `texts` in their order; a translation is at most 1.5 times its source's tokens + 10."""
    tokenizer.src_lang = source
    rows = tokenizer(texts, truncation=True, max_length=128).input_ids
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    translated = [""] * len(rows)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = pad([rows[i] for i in chosen], tokenizer.pad_token_id)
        generated = model.generate(
            input_ids=batch["ids"],
            attention_mask=batch["mask"],
            forced_bos_token_id=tokenizer.convert_tokens_to_ids(target),
            max_new_tokens=int(1.5 * max(len(rows[i]) for i in chosen)) + 10,
            num_beams=1,
            do_sample=False,
        )
        for i, text in zip(chosen, tokenizer.batch_decode(generated, skip_special_tokens=True), strict=True):
            translated[i] = text
    return translated


def chrf(translations: list[str], references: list[str]) -> float:
    """Corpus chrF2 (sacrebleu's default: 6 characters, beta 2), 0 to 100."""
    return float(sacrebleu.corpus_chrf(translations, [references]).score)
