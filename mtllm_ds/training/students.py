"""Where a run's student starts: from an earlier run, from data, or from what its checkpoint kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from mtllm_ds.checkpoint.adapters import with_frozen_adapter
from mtllm_ds.cluster.agree import each_together, together
from mtllm_ds.cluster.launch import Cluster
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.stream.stream import EvalStream
from mtllm_ds.errors import UserError
from mtllm_ds.models.centring import centring_of, language_means, read_means, require_english
from mtllm_ds.models.connector_start import start_connector
from mtllm_ds.models.own_weights import put_weights
from mtllm_ds.models.readers import Reader
from mtllm_ds.models.stacked import StackedModel
from mtllm_ds.objectives.base import Objective
from mtllm_ds.preflight.plan import RunPlan
from mtllm_ds.weight_names import CENTRING, HEAD, is_addition, is_head, is_lora, own_name

_READING_BATCH = 32


def start_reader(reader: Reader, plan: RunPlan, cluster: Cluster, kept: Mapping[str, torch.Tensor] | None) -> None:
    """Bring a new reader to the run's start; `kept` is what a checkpoint kept, None for a fresh run."""
    if kept is not None:
        put_weights(reader, {own_name(name): t for name, t in kept.items() if not is_head(name)})
    else:
        together(lambda: put_weights(reader, _start_weights(plan)), cluster.device)
        if isinstance(reader, StackedModel):
            _start_connector(reader, plan, cluster)
            _centre(reader, plan, cluster)


def kept_head(kept: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The frozen head that a checkpoint kept, by its own names; empty where it kept none."""
    return {name.removeprefix(HEAD): tensor for name, tensor in kept.items() if is_head(name)}


def kept_tensors(
    objective: Objective, plan: RunPlan, kept: Mapping[str, torch.Tensor] | None
) -> dict[str, torch.Tensor]:
    """What is frozen and in no base model as it was, as checkpoints keep it: fp32, by the objective's names, on the CPU.

    Taken before the engine casts or shards anything; what came from elsewhere is kept as it came, not as cast to bf16.
    """
    if kept is not None:
        return dict(kept)
    exact = {**_start_weights(plan), **{f"{HEAD}{name}": t for name, t in (plan.teacher_head or {}).items()}}
    tensors = {
        **{n: p for n, p in objective.named_parameters() if not p.requires_grad},
        **dict(objective.named_buffers()),
    }
    # Of a base model's weights those of `model.start` alone: it trained them, and here they are frozen.
    own = {
        name: tensor
        for name, tensor in tensors.items()
        if is_head(name) or is_addition(own_name(name)) or own_name(name) in exact
    }
    return {name: _plain(exact.get(own_name(name), tensor)) for name, tensor in own.items()}


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).contiguous().clone()


def _start_weights(plan: RunPlan) -> dict[str, torch.Tensor]:
    """Weights of `model.start` under the names they have in this run; empty without one."""
    start, model = plan.start, plan.settings.model
    if start is None:
        return {}
    weights = with_frozen_adapter(start.weights, start.model.lora) if model.merge_start_lora else start.weights
    if plan.settings.objective.starts_at_teacher:
        assert plan.teacher is not None
        weights |= {name: tensor for name, tensor in plan.teacher.weights.items() if is_lora(name)}
    takes_means = model.connector.centring == "language" and model.connector.centring_text is None
    return {name: tensor for name, tensor in weights.items() if takes_means or not name.startswith(CENTRING)}


def _start_connector(reader: StackedModel, plan: RunPlan, cluster: Cluster) -> None:
    """The connector's closed-form start, where the settings ask for one."""
    connector = plan.settings.model.connector
    if connector.init == "least_squares" or connector.match_scale:
        reader.to(cluster.device)
        texts = together(lambda: _start_texts(plan, cluster), cluster.device)
        start_connector(reader, texts, plan.tokenizers["encoder"], plan.tokenizers["llm"], connector, cluster.device)


def _start_texts(plan: RunPlan, cluster: Cluster) -> list[tuple[str, str]]:
    """This rank's share of the texts for the connector's closed-form start, with their languages.

    A language whose samples are translations is left out: what the LLM reads there is not in that language.
    """
    alike = [not plan.train.statistics[code].get("translations") for code in plan.train.languages]
    if not any(alike):
        raise UserError(
            "model.connector.init=least_squares: it and match_scale start from text that both sides read, and every language of "
            "data.train holds translations; add English text, or set init=default and match_scale=false"
        )
    batches = _samples(plan, cluster, plan.train, plan.settings.model.connector.init_documents)
    llm = plan.tokenizers["llm"]
    return [
        (llm.decode(ids[mask.bool()].tolist()), plan.train.languages[int(language)])
        for batch in batches
        for ids, mask, language, valid in zip(batch.llm_ids, batch.llm_mask, batch.languages, batch.valid, strict=True)
        if valid and alike[int(language)]
    ]


def _centre(reader: StackedModel, plan: RunPlan, cluster: Cluster) -> None:
    """Means by language from a file or from text, where the settings name either."""
    connector = plan.settings.model.connector
    if connector.centring_text is None:
        return
    place, encoder = Path(connector.centring_text), plan.tokenizers["encoder"]
    if place.is_file():
        means = together(lambda: read_means(place, reader.encoder.hidden_size), cluster.device)
    else:
        manifest = together(lambda: _centring_manifest(place, plan), cluster.device)
        batches = together(lambda: _samples(plan, cluster, manifest, connector.centring_documents), cluster.device)
        reader.to(cluster.device)
        read = each_together(batches, cluster.device)
        means = language_means(reader.encoder, read, manifest.languages, cluster.device)
    reader.centring = together(lambda: centring_of(means, lambda code: encoder.join([], code)[0]), cluster.device)


def _samples(plan: RunPlan, cluster: Cluster, manifest: Manifest, limit: int) -> EvalStream:
    """This rank's share of at most `limit` samples of a data set."""
    data = plan.settings.data
    return EvalStream(
        manifest, rank=cluster.rank, world_size=cluster.world_size, batch_size=_READING_BATCH, limit=limit,
        on_error=data.on_error, max_skipped_share=data.max_skipped_share,
    )  # fmt: skip


def _centring_manifest(place: Path, plan: RunPlan) -> Manifest:
    manifest = Manifest.load(str(place), plan.settings.data.remote)
    manifest.check_shards()
    manifest.check_tokenizer(plan.tokenizers["encoder"])
    where = f"model.connector.centring_text={place}"
    require_english(manifest.languages, where)
    if missing := sorted(set(plan.train.languages) - set(manifest.languages)):
        raise UserError(f"{where}: it has no text in {', '.join(missing)}, which data.train holds; add some")
    return manifest
