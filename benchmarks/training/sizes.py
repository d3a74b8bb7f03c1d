"""What is measured: models by shape, documents by length, and how a step is laid out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from benchmarks.kernels.rehearsal import rehearsing

NLLB_600M: dict[str, Any] = {
    "vocab_size": 256206, "d_model": 1024, "encoder_layers": 12, "encoder_ffn_dim": 4096, "encoder_attention_heads": 16,
    "max_position_embeddings": 1024,
}  # fmt: skip
"""The encoder of facebook/nllb-200-distilled-600M"""
LLAMA_3_8B: dict[str, Any] = {
    "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "max_position_embeddings": 8192, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
}  # fmt: skip
"""meta-llama/Meta-Llama-3-8B"""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to make the same step."""

    name: str
    kind: Literal["ours", "bare", "plain", "trainer", "alone"]
    """`ours`: the product's loop; `bare`: its engine alone, forward, backward and step; `plain`: its loop over two passes, layers
    gathered whole; `trainer`: the script of `trainer_script.py`; `alone`: one rank, plain PyTorch"""
    overrides: tuple[str, ...] = ()
    """Settings of the recipe, as on the command line"""


OURS = Variant(name="ours", kind="ours")
BARE = Variant(name="bare", kind="bare")
PLAIN = Variant(name="plain", kind="plain")
TRAINER = Variant(name="trainer", kind="trainer")
ALONE = Variant(name="alone", kind="alone")
AGAINST = (OURS, BARE, PLAIN, TRAINER, ALONE)
OPTIONS = (
    OURS,
    Variant(name="sdpa_compiled", kind="ours", overrides=("model.attention=sdpa", "training.compile=layers")),
    *(
        Variant(name=name, kind="ours", overrides=(f"model.attention={attention}", f"model.liger={liger}"))
        for name, attention, liger in (
            ("sdpa", "sdpa", "false"),
            ("sdpa_liger", "sdpa", "true"),
            ("flash", "flash_attention_2", "false"),
            ("flash_liger", "flash_attention_2", "true"),
        )
    ),
)
"""With a GPU: what its options bring. One that cannot be had on a machine is told and left out"""


@dataclass(frozen=True, kw_only=True)
class Size:
    """One setting in which all variants make the same steps on the same documents."""

    name: str
    encoder: dict[str, Any]
    """Of `M2M100Config`"""
    llm: dict[str, Any]
    """Of `LlamaConfig`"""
    lengths: int | Literal["paragraphs", "pages"]
    """Tokens of every document, or of which of `lengths.json`"""
    max_length: int
    lanes: int
    cells_per_forward: int
    samples_per_cell: int | None = None
    """Documents of a cell; none where a cell is a packed row of `max_length` tokens"""
    num_ranks: int
    num_threads: int = 1
    """Of each rank"""
    deepspeed: str
    """Name of a file in `ds_configs/`"""
    device: Literal["cpu", "cuda"]
    variants: tuple[Variant, ...] = AGAINST
    num_rounds: int = 40
    """At most, warm-up included"""
    seconds: float
    """No round begins later than this after the first"""
    precision: Literal["bf16", "fp32"] = "bf16"
    scales: bool = False
    """Whether the planner shall begin at our step, for more GPUs; documents are `max_length` long, on one GPU"""
    lora: dict[str, Any] = field(default_factory=lambda: {"rank": 16, "alpha": 32, "dropout": 0.0})

    @property
    def num_forwards(self) -> int:
        """Of a rank, in a step."""
        return self.lanes // (self.num_ranks * self.cells_per_forward)


_SMALL_ENCODER = {
    "vocab_size": 10008, "d_model": 256, "encoder_layers": 4, "encoder_ffn_dim": 1024, "encoder_attention_heads": 4,
    "max_position_embeddings": 512,
}  # fmt: skip
_SMALL_LLM = {
    "vocab_size": 8000, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 12, "num_attention_heads": 8,
    "num_key_value_heads": 4, "max_position_embeddings": 512,
}  # fmt: skip
_TINY_ENCODER = {**_SMALL_ENCODER, "d_model": 32, "encoder_layers": 2, "encoder_ffn_dim": 64}
_TINY_LLM = {**_SMALL_LLM, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
_CPU: dict[str, Any] = {"num_ranks": 2, "deepspeed": "cpu", "device": "cpu"}
_GPU: dict[str, Any] = {
    "encoder": NLLB_600M, "llm": LLAMA_3_8B, "max_length": 512, "num_ranks": 1, "deepspeed": "zero3", "device": "cuda",
    "num_rounds": 14, "seconds": 240,
}  # fmt: skip
_EVEN: dict[str, Any] = {"lengths": 512, "lanes": 64, "samples_per_cell": 1, "cells_per_forward": 8}

SIZES = {
    size.name: size
    for size in (
        Size(
            name="cpu", encoder=_SMALL_ENCODER, llm=_SMALL_LLM, lengths="paragraphs", max_length=128, lanes=16,
            cells_per_forward=8, seconds=400, **_CPU,
        ),
        Size(
            name="smoke", encoder=_TINY_ENCODER, llm=_TINY_LLM, lengths=24, max_length=32, lanes=4, samples_per_cell=2,
            cells_per_forward=1, num_rounds=6, seconds=60, precision="fp32", **_CPU,
        ),
        Size(name="gpu_even", variants=(OURS, PLAIN, TRAINER, ALONE), scales=True, **_EVEN, **_GPU),
        Size(name="gpu_options", variants=OPTIONS, **_EVEN, **_GPU),
        Size(name="gpu_pages", variants=(OURS, BARE, TRAINER, ALONE), lengths="pages", lanes=64, cells_per_forward=8, **_GPU),
    )
}  # fmt: skip


def size_named(name: str) -> Size:
    """A size; in a rehearsal its toy form."""
    return _rehearsed(SIZES[name]) if rehearsing() else SIZES[name]


def _rehearsed(size: Size) -> Size:
    """The same at toy size on the CPU; what needs a GPU's packages is left out."""
    smoke = SIZES["smoke"]
    even: dict[str, Any] = (
        {"lengths": smoke.lengths, "max_length": smoke.max_length} if isinstance(size.lengths, int) else {}
    )
    return replace(
        size, encoder=smoke.encoder, llm=smoke.llm, lanes=smoke.lanes, cells_per_forward=smoke.cells_per_forward,
        deepspeed=smoke.deepspeed, device=smoke.device, precision=smoke.precision, num_rounds=smoke.num_rounds,
        variants=tuple(one for one in size.variants if not _needs_a_gpu(one)), **even,
    )  # fmt: skip


def _needs_a_gpu(variant: Variant) -> bool:
    needs = ("flash", "liger=true", "compile")
    return any(need in override for override in variant.overrides for need in needs)
