"""Train the tiny English Llama on help pages by next-token prediction, for a given time.

    python -m benchmarks.quality.bases.train_llama --data FOLDER --out runs/bases/llama --core-minutes 18

A stopped run continues by the same command. `training.json` tells how well a logistic regression on mean-pooled states knows
the topic of English validation items.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments, set_seed

from benchmarks.quality.bases.llama_objectives import Windows, causal_loss, collate_windows
from benchmarks.quality.bases.text_tokenizers import load_or_train, train_llm_tokenizer
from benchmarks.quality.bases.timed_training import (
    TRAINING,
    Clock,
    TimedTrainer,
    add_time_options,
    earlier_runs,
    last_checkpoint,
)
from benchmarks.quality.text.folder_text import read_documents, read_jsonl
from benchmarks.quality.vectors.mean_states import pooled
from mtllm_ds.atomic import write_json
from mtllm_ds.command_line import Parser, run_and_exit
from mtllm_ds.languages import ENGLISH


class LlamaTrainer(TimedTrainer):
    """Hugging Face's trainer with the loss of `causal_loss`."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = causal_loss(model, inputs)
        return (loss, {}) if return_outputs else loss


def new_model(tokenizer, width: int, layers: int, dropout: float) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        max_position_embeddings=512,
        attention_dropout=dropout,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def pooled_states(model, tokenizer, texts: list[str], batch_size: int = 64) -> np.ndarray:
    """Mean-pooled final hidden states of `<bos> x`, (n, D) float32."""
    rows = tokenizer(texts, truncation=True, max_length=256).input_ids
    model.eval()

    def states(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state

    return pooled(rows, tokenizer.pad_token_id, states, model.device, batch_size).numpy()


def topic_accuracy(model, tokenizer, data: Path) -> float:
    """English validation accuracy of a logistic regression on mean-pooled states of English training items."""
    train, valid = (read_jsonl(data / f"{split}_{ENGLISH}.jsonl") for split in ("train", "valid"))
    vectors = [pooled_states(model, tokenizer, [item["text"] for item in items]) for items in (train, valid)]
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.03, max_iter=200))
    head.fit(vectors[0], [item["label"] for item in train])
    return float(head.score(vectors[1], [item["label"] for item in valid]))


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the help text")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints and of the finished models")
    parser.add_argument("--start", type=Path, help="folder of a finished model to go on from")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    add_time_options(parser, 18.0)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocab-size", type=int, default=8_000)
    parser.add_argument("--dropout", type=float, default=0.1, help="of attention weights, in training")
    args = parser.parse_args()

    set_seed(0)
    documents, _ = read_documents(args.data)
    texts = [[paragraph["text"] for paragraph in page["paragraphs"]] for page in documents]
    tokenizer = load_or_train(
        args.start or args.out, lambda: train_llm_tokenizer((t for page in texts for t in page), args.vocab_size)
    )
    pages = [tokenizer(page).input_ids for page in texts if page]
    if args.start:
        model = LlamaForCausalLM.from_pretrained(args.start, dtype="float32", attention_dropout=args.dropout)
    else:
        model = new_model(tokenizer, args.width, args.layers, args.dropout)
    resume_from = last_checkpoint(args.out)
    trainer = LlamaTrainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(args.out),
            per_device_train_batch_size=32,
            learning_rate=args.learning_rate,
            warmup_steps=20,
            weight_decay=0.1,
            max_steps=1_000_000,
            bf16=True,
            use_cpu=args.device == "cpu",
            remove_unused_columns=False,
            logging_steps=20,
            save_steps=300,
            save_total_limit=1,
            report_to=[],
            disable_tqdm=True,
        ),
        data_collator=collate_windows(tokenizer.pad_token_id),
        train_dataset=Windows(pages, 128),
        clock=Clock(args.core_minutes, resume_from, args.device),
    )
    trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    training = {
        "tokens": sum(len(ids) for page in pages for ids in page),
        "runs": [
            *earlier_runs(args.start),
            {"core_seconds": trainer.clock.seconds(), "steps": trainer.state.global_step, "device": args.device},
        ],
        "topic_accuracy": topic_accuracy(model, tokenizer, args.data),
    }
    write_json(args.out / TRAINING, training)
    print(json.dumps(training, indent=1))
    return 0


if __name__ == "__main__":
    run_and_exit(main)
