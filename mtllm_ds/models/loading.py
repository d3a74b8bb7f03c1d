"""Pretrained models through Hugging Face `from_pretrained`: safetensors, pinned revision, every weight accounted for."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from mtllm_ds.config.gguf import gguf_file, gguf_options, gguf_weights_options
from mtllm_ds.config.hub import require_reachable
from mtllm_ds.config.names import is_missing_folder
from mtllm_ds.config.sections import EncoderSettings, LLMSettings
from mtllm_ds.errors import UserError
from mtllm_ds.models.base_dropout import switch_off_dropout
from mtllm_ds.models.direction import set_direction
from mtllm_ds.models.from_scratch import architecture_fingerprint, draw_weights, scratch_config
from mtllm_ds.models.int8_linear import quantise_layers
from mtllm_ds.models.quiet import quiet_transformers
from mtllm_ds.models.text_models import probe_llm, text_model, text_model_class, without_pooler
from mtllm_ds.models.weightless import empty_model, is_weightless


def load_config(name: str, revision: str | None, trust_remote_code: bool, setting: str) -> PretrainedConfig:
    """Config of a hub name or local folder; `setting` names the key of the recipe in the error."""
    require_reachable(name, setting)
    _require_folder(name, setting)
    try:
        return AutoConfig.from_pretrained(
            name, revision=revision, trust_remote_code=trust_remote_code, **gguf_options(name)
        )
    except (OSError, ValueError, HFValidationError) as error:
        raise _cannot_be_loaded(setting, name, error) from error


def llm_config(settings: LLMSettings) -> PretrainedConfig:
    """Configuration of the LLM: what its name holds or, from scratch, what the settings make of it."""
    _require_folder(settings.name, "model.llm.name")
    if settings.from_scratch and _place("config.json", settings.name, settings.revision) is None:
        return scratch_config(settings, None)
    own = load_config(settings.name, settings.revision, settings.trust_remote_code, "model.llm.name")
    return scratch_config(settings, own.get_text_config()) if settings.from_scratch else own


def load_weights(
    model_class: Any, name: str, setting: str, mend: str = "fetch it anew, or name another", **options: Any
) -> PreTrainedModel:
    """`model_class.from_pretrained` that refuses missing or misshapen weights; all parameters come back frozen.

    `mend`: what the message adds for those whose weights are missing.
    """
    transformers_logging.disable_progress_bar()
    if is_weightless():
        config = options.get("config") or load_config(
            name, options.get("revision"), bool(options.get("trust_remote_code")), setting
        )
        return empty_model(model_class, config, **options)
    try:
        # It lists the weights that are left out on purpose (a decoder, a head); those that are missing we refuse below.
        with quiet_transformers():
            model, report = model_class.from_pretrained(
                name, use_safetensors=True, output_loading_info=True, **options, **gguf_weights_options(name)
            )
    except (OSError, ValueError, RuntimeError, HFValidationError) as error:
        raise _cannot_be_loaded(setting, name, error) from error
    for kind in ("missing_keys", "mismatched_keys", "error_msgs"):
        if report.get(kind):
            raise UserError(
                f"{setting}={name}: {kind.replace('_', ' ')} in its weights, first {sorted(report[kind])[0]}; {mend}"
            )
    return model.requires_grad_(False)


def load_llm(settings: LLMSettings, attention: str, dtype: torch.dtype, *, seed: int = 0) -> PreTrainedModel:
    """The LLM without its output head, of a multimodal model the text model alone: its forward accepts `inputs_embeds`. With
    `from_scratch` its weights are drawn from `seed`; its `quantization` is done.

    Raises:
        UserError: it cannot be loaded or quantised, or `probe_llm` refuses it.
    """
    config = llm_config(settings)
    probe_llm(settings, config)
    text_class = text_model_class(config.get_text_config(), settings)
    attention = supported_attention(text_class, attention)
    if settings.from_scratch:
        model = draw_weights(
            text_class, config, seed, dtype, attn_implementation=attention, **without_pooler(text_class)
        )
    else:
        model = load_weights(
            AutoModel,
            settings.name,
            "model.llm.name",
            revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
            dtype=dtype,
            attn_implementation=attention,
            **without_pooler(text_class),
        )
        model = text_model(model, text_class)
    if settings.quantization == "int8":
        quantise_layers(model)
    model.config.use_cache = False
    set_direction(model, settings.bidirectional)
    switch_off_dropout(model)
    return model


def choose_attention(setting: str, device: torch.device, dtype: torch.dtype) -> str:
    """Attention implementation for `setting`; raises `UserError` when the one asked for cannot run here. On paper flash
    attention is SDPA, whose operators a plan counts as fused too."""
    usable = [name for name in ("flash_attention_4", "flash_attention_2") if _flash_fits(name, device, dtype)]
    if setting == "auto":
        return usable[0] if usable else "sdpa"
    if setting.startswith("flash") and is_weightless():
        return "sdpa"
    if setting.startswith("flash") and setting not in usable:
        raise UserError(
            f"model.attention={setting}: needs its package, a CUDA device and bf16; set model.attention=auto"
        )
    return setting


def supported_attention(model_class: type, attention: str) -> str:
    """What a class of model runs with where `attention` is wanted: some know no flash attention, some only eager."""
    if not issubclass(model_class, PreTrainedModel):  # `AutoModel`, for code of its own
        return attention
    if attention.startswith("flash") and not model_class._supports_flash_attn:
        attention = "sdpa"
    return "eager" if attention == "sdpa" and not model_class._supports_sdpa else attention


def base_fingerprint(settings: EncoderSettings | LLMSettings) -> str:
    """What identifies a base model: its weights or, from scratch, its architecture."""
    if isinstance(settings, LLMSettings) and settings.from_scratch:
        return architecture_fingerprint(llm_config(settings))
    return weights_fingerprint(settings.name, settings.revision)


def weights_fingerprint(name: str, revision: str | None) -> str:
    """What identifies the weights of a base model: of a local folder their `stored_weights`, of a hub name the commit.

    Raises:
        UserError: a folder without weights, or a hub name that cannot be found.
    """
    if not Path(name).is_dir():
        return f"hub:{_commit(name, revision)}"
    found = stored_weights(name, None)
    if found is None:
        raise UserError(
            f"base model {name}: holds no weights in safetensors (model.safetensors, or what its index names) or GGUF; "
            "put them there, or name another model"
        )
    return found


def stored_weights(name: str, revision: str | None) -> str | None:
    """What identifies weights wherever they lie; those of a hub name are fetched unless they are at hand.

    sha256 over the name, size, safetensors header and both ends (1 MiB each) of every weight file, so that it takes
    milliseconds at any size. None where there is no safetensors file.
    """
    try:
        files = sorted(_weight_files(name, revision))
    except OSError as error:
        raise UserError(
            f"base model {name}: its weights cannot be read ({_first_line(error)}); copy or fetch them anew"
        ) from error
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(json.dumps([file.name, size]).encode())
        with file.open("rb") as stream:
            digest.update(stream.read(8 + int.from_bytes(stream.read(8), "little")))
            digest.update(stream.read(2**20))
            stream.seek(max(0, size - 2**20))
            digest.update(stream.read())
    return f"sha256:{digest.hexdigest()}" if files else None


def is_same_model(name: str, fingerprint: str, base: Mapping[str, Any]) -> bool | None:
    """Whether what is found under a name is the model that a run or export remembers: a commit of the hub and a folder, or a
    mirror's commit, are if their weight files are. None where that cannot be told.

    Args:
        fingerprint: of what is found
        base: what is remembered, with its fingerprint and, of the hub's, a hash of the weights
    """
    trained_on = str(base["fingerprint"])
    if fingerprint == trained_on:
        return True
    (kind, _, commit), kind_before = fingerprint.partition(":"), trained_on.partition(":")[0]
    before = base.get("weights") if kind_before == "hub" else trained_on
    now = stored_weights(name, commit) if kind == "hub" and before is not None else fingerprint
    if kind != kind_before and None in (before, now):
        return None
    return before == now


def _commit(name: str, revision: str | None) -> str:
    """The commit that `revision` of a hub name stands for: the cache keeps each commit's files in a folder of its name."""
    try:
        config = cached_file(name, "config.json", revision=revision)
    except OSError as error:
        raise UserError(
            f"base model {name}: cannot be found ({_first_line(error)}); give a folder or a hub name"
        ) from error
    if config is None:
        raise UserError(f"base model {name}: has no config.json; name a model in the format of transformers")
    return Path(config).parent.name


def _weight_files(name: str, revision: str | None) -> Iterator[Path]:
    """The files that `from_pretrained` reads weights from, and no others that lie beside them."""

    packed = gguf_file(name)
    if packed is not None:
        yield Path(name) / packed
        return
    whole = _place("model.safetensors", name, revision)
    index = _place("model.safetensors.index.json", name, revision) if whole is None else None
    if whole is not None:
        yield Path(whole)
    elif index is not None:
        for file in set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()):
            yield Path(str(cached_file(name, file, revision=revision)))


def _require_folder(name: str, setting: str) -> None:
    if is_missing_folder(name):
        raise UserError(f"{setting}={name}: the folder does not exist; give a folder or a hub name")


def _place(file: str, name: str, revision: str | None) -> str | None:
    """Where a file of a model is; None where it has none."""
    return cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)


def _cannot_be_loaded(setting: str, name: str, error: Exception) -> UserError:
    if "trust_remote_code" not in str(error):
        return UserError(
            f"{setting}={name}: cannot be loaded ({_first_line(error)}); name another model, or mend that one"
        )
    mend = "name a model that transformers knows"
    if setting == "--model":  # of a command that has this option
        mend = "add --trust-remote-code if you trust it"
    if setting.endswith(".name"):
        mend = f"set {setting.removesuffix('name')}trust_remote_code=true if you trust it"
    return UserError(f"{setting}={name}: brings code of its own; {mend}")


def _flash_fits(name: str, device: torch.device, dtype: torch.dtype) -> bool:
    package = {"flash_attention_2": "flash_attn", "flash_attention_4": "flash_attn.cute"}[name]
    try:
        installed = importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        installed = False
    return installed and device.type == "cuda" and dtype in (torch.bfloat16, torch.float16)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
