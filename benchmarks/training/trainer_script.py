"""Stage 1 without this project: Hugging Face's Trainer, PEFT and DeepSpeed ZeRO-3, as its documentation has one write it.

    deepspeed --num_gpus 2 --module benchmarks.training.trainer_script FOLDER [STEPS]

The teacher is the LLM with its adapters off, in a pass of its own; documents are padded to the longest of their batch. FOLDER is
what `material.py` writes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType, PartialState
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers import AutoModel, Trainer, TrainerCallback, TrainingArguments
from transformers.models.m2m_100.modeling_m2m_100 import M2M100Encoder


class Stack(nn.Module):
    """Encoder, connector and LLM with LoRA."""

    def __init__(self, encoder: nn.Module, connector: nn.Module, llm: nn.Module) -> None:
        super().__init__()
        self.encoder, self.connector, self.llm = encoder.eval().requires_grad_(False), connector, llm
        self.config = llm.config

    def train(self, mode: bool = True) -> Stack:
        """The encoder's dropout stays off."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Pooled final states: (B, S) ids and mask -> (B, D)."""
        with torch.no_grad():
            states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return pooled(self.llm(inputs_embeds=self.connector(states), attention_mask=mask).last_hidden_state, mask)


def pooled(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of the states that are no padding: (B, S, D), (B, S) -> (B, D)."""
    weights = mask.unsqueeze(-1).float()
    return (states.float() * weights).sum(1) / weights.sum(1)


class DistillationTrainer(Trainer):
    """Mean-squared error to the LLM's own states of the same documents."""

    def __init__(self, *args: Any, batches: list[list[int]], **options: Any) -> None:
        super().__init__(*args, **options)
        self._batches = batches

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:  # fmt: skip
        llm = self.accelerator.unwrap_model(model).llm
        with torch.no_grad(), llm.disable_adapter():
            states = llm(input_ids=inputs["llm_ids"], attention_mask=inputs["llm_mask"]).last_hidden_state
            teacher = pooled(states, inputs["llm_mask"])
        return (model(inputs["encoder_ids"], inputs["encoder_mask"]) - teacher).square().mean()

    def get_train_dataloader(self) -> DataLoader:
        """This rank's batches of whole documents, in order."""
        own = self._batches[self.args.process_index :: self.args.world_size]
        documents: Any = self.train_dataset
        return DataLoader(documents, batch_sampler=own, collate_fn=self.data_collator)


def pad(documents: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """A batch of documents, each side to its longest."""
    batch = {}
    for side in ("encoder", "llm"):
        rows = [torch.tensor(document[side]) for document in documents]
        masks = [torch.ones_like(row) for row in rows]
        batch[f"{side}_ids"] = pad_sequence(rows, batch_first=True, padding_value=1)
        batch[f"{side}_mask"] = pad_sequence(masks, batch_first=True)
    return batch


def build_trainer(folder: Path, num_steps: int, callbacks: Sequence[TrainerCallback] = ()) -> Trainer:
    """All of it, from what lies in `folder`."""
    given = json.loads((folder / "trainer.json").read_text())
    documents = json.loads((folder / "documents.json").read_text())
    steps = json.loads((folder / "forwards.json").read_text())
    if not torch.cuda.is_available():
        _know_deepspeed_on_cpu()
    arguments = TrainingArguments(
        output_dir=str(folder / "runs/trainer"), max_steps=num_steps, learning_rate=given["learning_rate"],
        weight_decay=given["weight_decay"], max_grad_norm=given["max_grad_norm"], lr_scheduler_type="linear",
        per_device_train_batch_size=1, gradient_accumulation_steps=given["gradient_accumulation_steps"],
        bf16=given["precision"] == "bf16", use_cpu=not torch.cuda.is_available(), deepspeed=given["deepspeed"], logging_steps=10,
        save_strategy="no", report_to="none", remove_unused_columns=False, disable_tqdm=True,
        accelerator_config={"use_configured_state": not torch.cuda.is_available()},
    )  # fmt: skip
    dtype = torch.bfloat16 if given["precision"] == "bf16" else torch.float32
    # After TrainingArguments, so that weights arrive partitioned.
    encoder = M2M100Encoder.from_pretrained(given["encoder"], dtype=dtype)
    llm = AutoModel.from_pretrained(given["llm"], dtype=dtype)
    llm.config.use_cache, llm.config.is_causal = False, False
    for module in llm.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False
    torch.manual_seed(0)
    connector = nn.Linear(encoder.config.d_model, llm.config.hidden_size).to(dtype)
    lora = LoraConfig(
        r=given["lora"]["rank"], lora_alpha=given["lora"]["alpha"], lora_dropout=given["lora"]["dropout"],
        target_modules="all-linear",
    )  # fmt: skip
    adapted = get_peft_model(llm.requires_grad_(False), lora, autocast_adapter_dtype=False)  # ZeRO wants one dtype
    rows = [{"encoder": ids, "llm": other} for ids, other in zip(documents["encoder"], documents["llm"], strict=True)]
    return DistillationTrainer(
        model=Stack(encoder, connector, adapted), args=arguments, train_dataset=rows, data_collator=pad,
        batches=[batch for step in steps for forward in step for batch in forward], callbacks=list(callbacks),
    )  # fmt: skip


def _know_deepspeed_on_cpu() -> None:
    """accelerate 1.15 knows DeepSpeed beside an accelerator only: it would train each rank of a CPU by itself."""
    PartialState(cpu=True).distributed_type = DistributedType.DEEPSPEED


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("steps", type=int, nargs="?", default=10)
    parser.add_argument("--local_rank", type=int, help="given by the launcher")
    options = parser.parse_args()
    build_trainer(options.folder, options.steps).train()
