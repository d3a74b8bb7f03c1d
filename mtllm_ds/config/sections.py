"""The settings that every run has, one class per section; the text under a field is its documentation.

The section `objective` is one of several classes (`objectives.py`); checks that need more than one section stand in `rules.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from mtllm_ds.config.data import DataSettings
from mtllm_ds.config.failures import FailureSettings
from mtllm_ds.config.names import resolve_model_name
from mtllm_ds.config.section import FIXED, Section

ModelName = Annotated[str, AfterValidator(resolve_model_name)]


def _none_is_empty(value: Any) -> Any:
    """Null takes away what a recipe says, where an empty mapping would only add nothing."""
    return {} if value is None else value


Pooling = Literal["mean", "last", "weighted_mean"]
"""From the states of a text's tokens to its vector: `models/pooling.py`."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=1e30)]
"""Beyond, AdamW's own numbers are too large for a float."""


class RunSettings(Section):
    output_dir: str
    """Folder of the run: `config.yaml`, `metrics.jsonl`, `checkpoints/`, `tensorboard/`."""
    seed: int = Field(default=0, ge=0, lt=2**63, json_schema_extra=FIXED)
    """Seeds the order of the data, the connector, LoRA, the head, dropout and masks."""
    seeds: tuple[Seed, ...] | None = None
    """Run once a seed, each in `output_dir/seed-N`. `{seed}` in any other text setting becomes N."""
    max_steps: int = Field(gt=0, lt=2**31)
    """Optimizer steps of the whole run."""
    log_every: int = Field(default=10, gt=0)
    """Steps between rows of `metrics.jsonl`."""
    validate_every: int = Field(default=100, gt=0)
    """Steps between validations (the last step is always validated)."""
    validate_at_start: bool = False
    """Validate before the first step too: a row of step 0, which picks no checkpoint."""
    save_every: int = Field(default=100, gt=0)
    """Steps between checkpoints (the last step is always saved)."""
    keep_checkpoints: int = Field(default=2, gt=0)
    """Newest checkpoints kept; the best by validation is kept beside them."""
    keep_every: int | None = Field(default=None, gt=0)
    """Checkpoints of every so many steps are kept for good; a multiple of `save_every`."""
    save_beside: bool = False
    """Write checkpoints beside the training, which waits only until rank 0 has them in memory (12 bytes per trained parameter)."""
    tensorboard: bool = True
    """Also write TensorBoard events."""


class EncoderSettings(Section):
    name: ModelName
    """Hub name, local folder or `package:` folder of the model whose *encoder* reads the text.

    NLLB, M2M100, SONAR, mT5, umT5, T5 (MADLAD), T5Gemma 1 and 2, XLM-R, BERT, ModernBERT (mmBERT), EuroBERT, GTE.
    """
    revision: str | None = None
    """Commit or tag on the hub; pin it for a run that must be repeatable."""
    family: Literal[
        "auto",
        "m2m_100",
        "t5",
        "mt5",
        "umt5",
        "t5gemma",
        "t5gemma2",
        "xlm-roberta",
        "bert",
        "modernbert",
        "eurobert",
        "gte",
        "new",
    ] = Field(default="auto", json_schema_extra=FIXED)
    """Adapter to use; `auto` reads the model's config."""
    max_length: int = Field(default=512, gt=4, json_schema_extra=FIXED)
    """Longest encoder input in tokens, tag and end included."""
    trust_remote_code: bool = False
    num_trainable_layers: int = Field(default=0, ge=0, lt=2**31, json_schema_extra=FIXED)
    """Of a stack: how many of its top layers train beside the connector and what `model.trainable` names, with the final norm where
    there is one; 0 (the paper) leaves it frozen. Its embeddings never train, its dropout stays off, and of the layers below those
    that train no activations are kept."""


class LLMSettings(Section):
    name: ModelName
    """Hub name, local folder or `package:` folder of the English-centric model.

    Any decoder or encoder that accepts `inputs_embeds`.
    """
    revision: str | None = None
    """Commit or tag on the hub."""
    bidirectional: bool = Field(default=True, json_schema_extra=FIXED)
    """Attend in both directions (a decoder wants LLM2Vec adaptation first); encoders always do."""
    max_length: int = Field(default=512, gt=4, json_schema_extra=FIXED)
    """Longest LLM input in tokens, specials included."""
    trust_remote_code: bool = False
    quantization: Literal["int8"] | None = Field(default=None, json_schema_extra=FIXED)
    """`int8`: the linear layers of its frozen layers keep 8 bits of each weight (a step per output), are shared out and gathered so
    under ZeRO-3, and are dequantised where they are used: about half the memory and bytes of bf16. Teacher and student read the
    same. Needs `model.trainable: lora`."""
    from_scratch: bool = Field(default=False, json_schema_extra=FIXED)
    """Weights are drawn from `run.seed`; `name` then needs a tokenizer only. The vocabulary is the tokenizer's."""
    config: Annotated[dict[str, Any], BeforeValidator(_none_is_empty)] = Field(default={}, json_schema_extra=FIXED)
    """With `from_scratch`: settings of the architecture, such as {model_type: bert, hidden_size: 256}, on top of those of `name`,
    if it has some, else of the architecture's own defaults."""


class ConnectorSettings(Section):
    type: Literal["linear", "mlp"] = "linear"
    """`linear`: one Linear with bias (the paper); `mlp`: Linear, GELU, Linear."""
    hidden_size: int | None = Field(default=None, gt=0)
    """Width of the `mlp`'s middle layer; the LLM's width where null."""
    layers: Literal["last", "all"] | tuple[int, ...] = "last"
    """What of the encoder it reads: the `last` layer's states (the paper), or several layers, mixed by weights that train (softmax;
    all alike at first): `all`, or a list such as [4, 8, 12], where 0 stands for the embeddings."""
    init: Literal["default", "least_squares"] = "default"
    """`least_squares`: closed-form start from encoder states to the LLM's input embeddings of character-aligned tokens."""
    match_scale: bool = False
    """Scale and shift the start so that its outputs have the mean and variance of the LLM's input embeddings."""
    init_documents: int = Field(default=1024, gt=0)
    """Training documents that `init: least_squares` and `match_scale` look at."""
    init_ridge: float = Field(default=1e-3, ge=0)
    """Ridge of the least-squares start, relative to the mean variance of the encoder states."""
    trainable: bool | None = None
    """Train the connector; null leaves it to the objective: trained in stage 1, frozen in the task objectives."""
    centring: Literal["none", "language"] = "none"
    """`language`: what enters the connector has its language's mean replaced by that of English. Needs language tags."""
    centring_text: str | None = None
    """Where the means come from: a folder of shards of monolingual text in all languages, English among them, or a JSON file of
    code to mean encoder state; null takes those of `model.start`."""
    centring_documents: int = Field(default=8192, gt=0)
    """Samples of a folder `centring_text` that are read, spread evenly over it."""

    @field_validator("layers")
    @classmethod
    def _several(cls, value: str | tuple[int, ...]) -> str | tuple[int, ...]:
        if isinstance(value, tuple) and (len(value) < 2 or len(set(value)) < len(value) or min(value) < 0):
            raise ValueError("expected last, all, or a list of two or more different layers such as [4, 8, 12]")
        return value


class LoraSettings(Section):
    rank: int = Field(default=16, gt=0, le=2**14)
    alpha: int = Field(default=32, gt=0)
    dropout: float = Field(default=0.05, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"
    """`all-linear`, or names of Linear layers of the LLM."""


class ModelSettings(Section):
    reader: Literal["stacked", "llm", "encoder"] = Field(default="stacked", json_schema_extra=FIXED)
    """What reads the text and is trained: `stacked`, MT encoder, connector and LLM with LoRA; `llm`, the LLM with LoRA alone;
    `encoder`, the MT encoder with LoRA alone."""
    encoder: EncoderSettings | None = None
    """The MT encoder; needed where it reads, or where the shards hold its ids."""
    llm: LLMSettings | None = None
    """The language model; needed where it reads, or where the shards hold its ids."""
    connector: ConnectorSettings = Field(default=ConnectorSettings(), json_schema_extra=FIXED)
    trainable: Literal["lora", "all"] | tuple[str, ...] = Field(default="lora", json_schema_extra=FIXED)
    """What trains of the language model (of the encoder, where that reads alone): `lora`; `all` its weights; or those of the
    modules that are named, such as [layers.11, norm]. A trained connector and head come on top."""
    lora: LoraSettings = Field(default=LoraSettings(), json_schema_extra=FIXED)
    start: str | None = Field(default=None, json_schema_extra=FIXED)
    """Run or export whose connector and LoRA are the start; null starts afresh (stage 1 skipped)."""
    merge_start_lora: bool = Field(default=False, json_schema_extra=FIXED)
    """The start's LoRA becomes a frozen part of the LLM and a fresh one trains; otherwise the start's own goes on."""
    pooling: Pooling = Field(default="mean", json_schema_extra=FIXED)
    """How the final states of a text's tokens become its vector, of teacher and student alike, in training and in the export: their
    `mean` (the paper) or, meant for causal LLMs, the state of the `last` token, or a `weighted_mean` in which the i-th token weighs
    i (SGPT, arXiv 2202.08904). Special tokens count. `model.start` and `objective.teacher` must have the same."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2", "flash_attention_4"] = "auto"
    """`auto` takes flash attention where it is installed and fits the device and dtype, SDPA otherwise, and says which."""
    liger: bool = False
    """Replace RMSNorm, RoPE and SwiGLU of the LLM by liger-kernel's (needs the extra `gpu` and a GPU)."""

    paired_sweep: bool | Literal["auto"] = "auto"
    """Under ZeRO-3, where the teacher is the LLM itself: run it beside the student, layer by layer, so that each layer is gathered
    twice a step and not three times. Same losses. `auto`: wherever that holds; true: refuse a run where it does not."""

    @field_validator("trainable", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if isinstance(value, str) and value not in ("lora", "all"):
            raise ValueError("expected lora, all, or a list of modules such as [layers.11, norm]")
        return value

    @property
    def sides(self) -> tuple[Literal["encoder", "llm"], ...]:
        """The base models whose weights the reader needs."""
        return ("encoder", "llm") if self.reader == "stacked" else (self.reader,)

    @property
    def given(self) -> dict[Literal["encoder", "llm"], EncoderSettings | LLMSettings]:
        """The base models that are named, by side."""
        sides: tuple[tuple[Literal["encoder", "llm"], EncoderSettings | LLMSettings | None], ...]
        sides = (("encoder", self.encoder), ("llm", self.llm))
        return {side: settings for side, settings in sides if settings is not None}

    @property
    def given_encoder(self) -> EncoderSettings:
        """The encoder's settings where it is known to be named."""
        assert self.encoder is not None
        return self.encoder

    @property
    def given_llm(self) -> LLMSettings:
        """The language model's settings where it is known to be named."""
        assert self.llm is not None
        return self.llm


class OptimSettings(Section):
    learning_rate: Rate = 2e-4
    weight_decay: float = Field(default=0.01, ge=0, le=1e3)
    """AdamW's decoupled decay; none on biases and norms."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    warmup_share: float = Field(default=0.01, ge=0, lt=1)
    """Share of `run.max_steps` over which the rate rises linearly."""
    schedule: Literal["linear", "cosine"] = "linear"
    """Decay to zero after the warm-up."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Clip the global gradient norm; 0 turns clipping off, as the authors of MT-LLM have it."""
    connector_learning_rate: Rate | None = None
    """Rate of the connector; `learning_rate` where null. After a least-squares start, whose weights are of the size of the LLM's
    embeddings, try a thirtieth of it: Adam's steps do not shrink with the weights."""
    encoder_learning_rate: Rate | None = None
    """Rate of the encoder's layers that train (`model.encoder.num_trainable_layers`); `learning_rate` where null. Pretrained
    weights usually want less than LoRA does: 1e-5 to 5e-5 are common."""


class TrainingSettings(Section):
    precision: Literal["bf16", "fp32"] = Field(default="bf16", json_schema_extra=FIXED)
    """Precision of the frozen models and of the forward; gradients accumulate and are reduced in fp32."""
    activation_checkpointing: bool = False
    """Recompute the LLM's layers in backward: less memory, about a third more time."""
    compile: bool | Literal["layers"] = False
    """`layers`: torch.compile of each layer of the model that trains; needs a C++ compiler (CPU) or Triton (GPU), and minutes in
    the first steps. Under ZeRO-3 layers are then gathered whole. Losses differ by rounding."""
    deepspeed: str = "zero3"
    """DeepSpeed configuration: the name of one that ships, or a file; its `auto` values are filled from these settings."""
    peak_tflops: float | None = Field(default=None, gt=0)
    """10^12 operations per second that MFU is measured against, of one rank; null takes the datasheet of a known GPU, and gives no
    MFU elsewhere."""
    flops_profiler_step: int | None = Field(default=None, gt=0)
    """The step in whose first forward rank 0 asks DeepSpeed's FLOPs profiler, which writes a table of modules into
    `output_dir/profile`; null asks it never."""
    whole_frozen_gib: Annotated[float, Field(ge=0, le=2**20)] | Literal["auto"] = "auto"
    """Under ZeRO-3, GiB of frozen weights that every rank keeps whole, so that nothing of them is gathered: as many as fit of a
    stack's encoder (its embeddings, then its layers), the language model's input embeddings, its head, and what else stands outside
    of its layers. What is below the file's persistence threshold comes on top. `auto`: a twentieth of the device's memory; 0: none.
    Same losses."""

    @field_validator("compile")
    @classmethod
    def _what_is_compiled(cls, value: bool | str) -> bool | str:
        if value is True:
            raise ValueError("expected false or layers")
        return value


class CommonSections(Section):
    """The sections whose form does not depend on what is minimised."""

    run: RunSettings
    model: ModelSettings
    data: DataSettings
    optim: OptimSettings = OptimSettings()
    training: TrainingSettings = TrainingSettings()
    failures: FailureSettings = FailureSettings()
