"""Train the tiny MT model (M2M100 shape, encoder and decoder) on parallel text, for a given time.

    python -m benchmarks.quality.bases.train_mt --data FOLDER --out runs/bases/mt --core-minutes 30
    python -m benchmarks.quality.bases.train_mt --data FOLDER --out runs/bases/mt2 --start runs/bases/mt --translation 1

The first run ranks translations by pooled encoder states, which makes the encoder useful within minutes; the second goes on
from it and learns to translate beside. A stopped run continues from its last checkpoint by the same command. With
`--new-vocabulary` the model goes on in other languages, or on other text, with a tokenizer trained on that.
"""

import argparse
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, M2M100Config, M2M100ForConditionalGeneration, TrainingArguments, set_seed

from benchmarks.quality.bases.mt_objective import Collate, SimilarLengths, Translations, mt_loss
from benchmarks.quality.bases.mt_probe import EncoderProbe
from benchmarks.quality.bases.text_tokenizers import balanced_lines, load_or_train, train_mt_tokenizer
from benchmarks.quality.bases.timed_training import (
    TRAINING,
    Clock,
    Milestones,
    TimedTrainer,
    add_time_options,
    earlier_runs,
    last_checkpoint,
)
from benchmarks.quality.bases.vocabulary import carry_vocabulary
from benchmarks.quality.text.folder_text import (
    LANGUAGES,
    ParallelText,
    joined,
    read_jsonl,
    read_parallel,
    split_valid,
)
from mtllm_ds.atomic import new_folder, write_json
from mtllm_ds.command_line import Parser, positive_int, run_and_exit
from mtllm_ds.errors import UserError
from mtllm_ds.languages import ENGLISH


class TranslationTrainer(TimedTrainer):
    """Hugging Face's trainer with a loss function `loss_of(model, batch) -> (loss, parts for the log)`.

    Evaluation scores the encoder by `probe` instead of a loss.
    """

    def __init__(self, *, probe: EncoderProbe, loss_of: Callable[..., tuple], **kwargs):
        super().__init__(**kwargs)
        self.probe, self.loss_of = probe, loss_of

    def _get_train_sampler(self, train_dataset=None):
        data: Any = self.train_dataset
        lengths = [
            len(own) + max(map(len, found.values())) for own, found in zip(data.english, data.translations, strict=True)
        ]
        return SimilarLengths(lengths, self.args.train_batch_size)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, parts = self.loss_of(model, inputs)
        if self.state.global_step % self.args.logging_steps == 0:
            self.log(parts | {"core_seconds": self.clock.seconds()})
        return (loss, {}) if return_outputs else loss

    def evaluate(self, *args, metric_key_prefix: str = "eval", **kwargs):
        scores = {f"{metric_key_prefix}_{name}": value for name, value in self.probe(self.model).items()}
        self.log(scores)
        return scores


def new_model(tokenizer, width: int, encoder_layers: int, decoder_layers: int) -> M2M100ForConditionalGeneration:
    config = M2M100Config(
        vocab_size=len(tokenizer),
        d_model=width,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        encoder_attention_heads=width // 64,
        decoder_attention_heads=width // 64,
        encoder_layerdrop=0.0,
        decoder_layerdrop=0.0,
        dropout=0.1,
        attention_dropout=0.0,
        activation_dropout=0.0,
        max_position_embeddings=512,
        init_std=0.05,  # embeddings start as large as the positions that are added to them
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    return M2M100ForConditionalGeneration(config)


def some_pairs(text: ParallelText, limit: int | None) -> ParallelText:
    """At most `limit` pairs of each language, the same each time: so that a language with much text leaves room for others."""
    if limit is None:
        return text
    pairs = {}
    for language in languages_of(text):
        own = [(e, t[language]) for e, t in zip(text.english, text.translations, strict=True) if language in t]
        pairs[language] = random.Random(0).sample(own, min(limit, len(own)))
    return joined(pairs)


def languages_of(text: ParallelText) -> list[str]:
    return sorted({language for found in text.translations for language in found})


def tokenize(tokenizer, text: ParallelText, max_length: int) -> Translations:
    def ids(segments: list[str], language: str) -> list[list[int]]:
        tokenizer.src_lang = language
        one_line = [" ".join(segment.split()) for segment in segments]
        return tokenizer(one_line, truncation=True, max_length=max_length).input_ids

    translations: list[dict[str, list[int]]] = [{} for _ in text.english]
    for language in languages_of(text):
        rows = [i for i, found in enumerate(text.translations) if language in found]
        for i, row in zip(rows, ids([text.translations[i][language] for i in rows], language), strict=True):
            translations[i][language] = row
    return Translations(ids(text.english, ENGLISH), translations)


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the text (make help-text, make ddtp)")
    parser.add_argument("--languages", nargs="+", default=list(LANGUAGES), metavar="CODE")
    parser.add_argument("--pairs-per-language", type=positive_int, help="train on at most so many (default: all)")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints and of the finished model")
    parser.add_argument("--start", type=Path, help="folder of a finished model to go on from")
    add_time_options(parser, 30)
    parser.add_argument("--translation", type=float, default=0.0, help="weight of the seq2seq loss")
    parser.add_argument("--offset", type=float, default=0.5, help="weight of the offset loss")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--eval-steps", type=int, default=300)
    parser.add_argument(
        "--milestones", type=float, nargs="*", default=[], help="shares of the time at which to save too"
    )
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--encoder-layers", type=int, default=3)
    parser.add_argument("--decoder-layers", type=int, default=2)
    parser.add_argument("--vocab-size", type=int, default=10_000)
    parser.add_argument("--new-vocabulary", action="store_true", help="with --start: train a new tokenizer for it")
    parser.add_argument("--max-length", type=int, default=80)
    args = parser.parse_args()

    if args.new_vocabulary and args.start is None:
        raise UserError(
            "--new-vocabulary: has no effect without --start, a new model has a new vocabulary; leave it out"
        )
    set_seed(0)
    train, valid = split_valid(args.data, read_parallel(args.data, tuple(args.languages)))
    train = some_pairs(train, args.pairs_per_language)
    lines = balanced_lines(train, per_language=14_000)
    place = args.start if args.start and not args.new_vocabulary else args.out
    tokenizer = load_or_train(place, lambda: train_mt_tokenizer(lines, (ENGLISH, *args.languages), args.vocab_size))
    unknown = [code for code in args.languages if code not in tokenizer.get_vocab()]
    if unknown:
        raise UserError(f"--languages {unknown[0]}: the tokenizer in {place} has no such tag; add --new-vocabulary")
    if args.start:
        model = M2M100ForConditionalGeneration.from_pretrained(args.start, dtype="float32")
        if args.new_vocabulary:
            carry_vocabulary(model, AutoTokenizer.from_pretrained(args.start), tokenizer)
    else:
        model = new_model(tokenizer, args.width, args.encoder_layers, args.decoder_layers)
    # The embeddings, which the encoder shares, learn in any case.
    model.model.decoder.layers.requires_grad_(bool(args.translation))
    model.model.decoder.layer_norm.requires_grad_(bool(args.translation))
    topics = {item["text"]: item["label"] for item in read_jsonl(args.data / f"valid_{ENGLISH}.jsonl")}
    resume_from = last_checkpoint(args.out)
    trainer = TranslationTrainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(args.out),
            per_device_train_batch_size=args.batch_size,
            learning_rate=args.learning_rate,
            warmup_steps=50,
            weight_decay=0.01,
            max_steps=1_000_000,
            max_grad_norm=1.0,
            bf16=True,
            use_cpu=args.device == "cpu",
            remove_unused_columns=False,
            logging_steps=20,
            eval_strategy="steps",
            eval_steps=args.eval_steps,
            save_steps=args.eval_steps,
            save_total_limit=2,
            report_to=[],
            disable_tqdm=True,
        ),
        data_collator=Collate(tokenizer.pad_token_id),
        train_dataset=tokenize(tokenizer, train, args.max_length),
        eval_dataset=valid.english,
        clock=Clock(args.core_minutes, resume_from, args.device),
        probe=EncoderProbe(tokenizer, valid, read_jsonl(args.data / f"train_{ENGLISH}.jsonl"), topics),
        loss_of=partial(mt_loss, offset_weight=args.offset, translation_weight=args.translation),
    )

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.src_lang = ENGLISH  # whatever it read last
        tokenizer.save_pretrained(folder)

    def save_milestone(folder: Path) -> None:
        with new_folder(folder) as fresh:
            save(fresh)

    trainer.add_callback(Milestones(args.milestones, trainer.clock, save_milestone))
    trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    model.requires_grad_(True)
    save(args.out)
    what = "ranking and translation" if args.translation else "ranking"
    run = {
        "core_seconds": trainer.clock.seconds(),
        "steps": trainer.state.global_step,
        "what": what,
        "device": args.device,
    }
    training = {"runs": [*earlier_runs(args.start), run], "scores": trainer.evaluate()}
    write_json(args.out / TRAINING, training)
    return 0


if __name__ == "__main__":
    run_and_exit(main)
