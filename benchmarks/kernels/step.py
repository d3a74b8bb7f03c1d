"""One training step at real shapes: a connector before a frozen LLM that distils itself, the loss ours or eager.

    python -m benchmarks.kernels.step [--output FOLDER]

The LLM has Llama 3.2 1B's shape and random weights in bfloat16; the encoder's states, 1024 wide as NLLB's, are given. The
teacher reads tokens, the student the connector's output, and both share the head. Needs torch and transformers only.
"""

import argparse
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mtllm_kernels import fused_linear_kl
from torch import Tensor, nn

from benchmarks.kernels import rehearsal
from benchmarks.kernels.rehearsal import low_precision, rehearsing
from benchmarks.kernels.results import Results
from benchmarks.kernels.variants import left_out


@dataclass(frozen=True)
class Shape:
    """Sequences of one step, and the LLM that reads them."""

    num_sequences: int
    length: int
    encoder_width: int
    width: int
    num_layers: int
    num_heads: int
    num_key_value_heads: int
    feed_forward_width: int
    vocabulary: int


REAL = Shape(8, 1024, 1024, 2048, 16, 32, 8, 8192, 128256)
TOY = Shape(2, 4, 16, 32, 1, 2, 1, 32, 211)
NUM_STEPS = 5
BACKENDS = ("triton-fused", "triton-split", "chunked", "reference")


def llm(shape: Shape, device: str, dtype: torch.dtype) -> Any:
    """A frozen causal LM with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.feed_forward_width,
        num_hidden_layers=shape.num_layers, num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_key_value_heads, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        model: nn.Module = LlamaForCausalLM(config)
        return model.to(dtype).requires_grad_(False).eval()


class Step:
    """Forward, backward and update of the connector. `seconds` tells the whole and the loss's own share."""

    def __init__(self, model: Any, shape: Shape, backend: str, device: str, dtype: torch.dtype) -> None:
        self.model, self.backend, self.device = model, backend, device
        generator = torch.Generator(device).manual_seed(1)
        lengths = (shape.num_sequences, shape.length)
        self.tokens = torch.randint(shape.vocabulary, lengths, generator=generator, device=device)
        states = torch.randn(*lengths, shape.encoder_width, generator=generator, device=device)
        self.states = states.to(dtype)
        self.connector = nn.Linear(shape.encoder_width, shape.width, device=device, dtype=dtype)
        self.optimizer = torch.optim.AdamW(self.connector.parameters(), lr=1e-4)

    def _hidden(self, **arguments: Tensor) -> Tensor:
        return self.model.model(**arguments, use_cache=False).last_hidden_state.flatten(0, 1)

    def __call__(self) -> tuple[float, float]:
        """Seconds of the step, and of the loss with the gradient of the student's hidden states."""
        start = self._now()
        with torch.no_grad():
            teacher = self._hidden(input_ids=self.tokens)
        student = self._hidden(inputs_embeds=self.connector(self.states))
        leaf, head, before = student.detach().requires_grad_(), self.model.lm_head.weight, self._now()
        (gradient,) = torch.autograd.grad(fused_linear_kl(leaf, head, teacher, head, backend=self.backend), leaf)
        after = self._now()
        student.backward(gradient)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return self._now() - start, after - before

    def _now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def measure(model: Any, shape: Shape, backend: str, device: str, dtype: torch.dtype) -> dict[str, float]:
    """Medians over some steps, after one that compiles."""
    step = Step(model, shape, backend, device, dtype)
    step()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = [step() for _ in range(NUM_STEPS)]
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    whole, loss = (statistics.median(s) for s in zip(*seconds, strict=True))
    return {"seconds": whole, "loss_seconds": loss, "loss_share": loss / whole, "peak_bytes": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    device, dtype, shape = rehearsal.device(), low_precision(), TOY if rehearsing() else REAL
    results, model = Results("step", arguments.output), llm(shape, device, dtype)
    for backend in BACKENDS:
        try:
            figures = measure(model, shape, backend, device, dtype)
        except Exception as error:  # one that does not fit leaves the others their turn
            left_out(backend, shape, error)
            continue
        results.add({"backend": backend} | figures, {f"step/{key}/{backend}": value for key, value in figures.items()})
        print(f"{backend:16}" + "".join(f"{key} {value:.4g}  " for key, value in figures.items()), flush=True)


if __name__ == "__main__":
    main()
