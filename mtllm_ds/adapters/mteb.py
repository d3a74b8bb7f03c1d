"""An export as an encoder of MTEB, each text read with the tag of its subset's language.

>>> import mteb
>>> from mtllm_ds.adapters.mteb import MTLLMEncoder
>>> model = MTLLMEncoder("my_model")
>>> results = mteb.evaluate(model, mteb.get_tasks(["SIB200Classification"], languages=["deu", "khm"]))
>>> model.starred(tasks)       # subsets in languages that the encoder lacks, where `fallback` lets them be read all the same

Needs the extra `mteb`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction

from mtllm_ds.adapters.task_languages import TaskLanguages
from mtllm_ds.checkpoint.trained import read_trained
from mtllm_ds.errors import UserError
from mtllm_ds.inference import MTLLM
from mtllm_ds.languages import ENGLISH, check_language


class MTLLMEncoder(AbsEncoder):
    """A trained model, or the folder of a run, on one device."""

    def __init__(
        self,
        folder: str | Path,
        *,
        languages: Mapping[str, str] | str | Path | None = None,
        fallback: str | None = None,
        encoder: str | None = None,
        llm: str | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """
        Args:
            languages: codes by `TASK/SUBSET/query`, `TASK/SUBSET/document` or `TASK/SUBSET` (patterns with * and ?), or a file with
                them: where MTEB names two languages, or the encoder knows one by another tag
            fallback: code of the tag that texts are read with in languages that the encoder lacks; None refuses them
            encoder, llm: where base models are, if they moved

        Raises:
            UserError: as `MTLLM.from_pretrained`, a code is unknown, or the encoder has no tags and reads all languages alike.
        """
        self.model = MTLLM.from_pretrained(folder, encoder=encoder, llm=llm, device=device, dtype=dtype)
        self._has_tags = bool(self.model.languages)
        for name, given in (("languages", languages), ("fallback", fallback)):
            if given is not None and not self._has_tags:
                raise UserError(
                    f"{name}: has no effect on an encoder without tags, which reads all languages alike; leave it out"
                )
        self._table = TaskLanguages(table=languages)
        self._fallback = None if fallback is None else self._known(fallback)
        if fallback is not None and self._fallback is None:
            raise UserError(f"fallback={fallback}: the encoder has no tag for it; name one that it has")
        # MTEB keeps results by name and revision: whatever changes vectors is in it.
        settings = [read_trained(folder).fingerprint, dict(self._table.table), self._fallback, str(dtype)]
        self.mteb_model_meta = ModelMeta(
            loader=None, name=f"mtllm-ds/{Path(folder).resolve().name}",
            revision=hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16], release_date=None,
            languages=[code.replace("_", "-") for code in self.model.languages] or None,
            n_parameters=None, memory_usage_mb=None, max_tokens=None, embed_dim=self.model.reader.hidden_size,
            license=None, open_weights=None, public_training_code=None, public_training_data=None, framework=["PyTorch"],
            similarity_fn_name=ScoringFunction.COSINE, use_instructions=False, training_datasets=None,
        )  # fmt: skip

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        batch_size: int = 32,
        **kwargs: Any,
    ) -> np.ndarray:
        """Vectors (n, D) float32 of batches with `text`; queries and documents are read alike.

        `kwargs` are what MTEB says beside (`show_progress_bar`).

        Raises:
            UserError: nothing tells which of several languages the texts are in, or the encoder lacks it.
        """
        language = self._language(task_metadata, hf_subset, None if prompt_type is None else str(prompt_type.value))
        texts = [text for batch in inputs for text in batch["text"]]
        return self.model.encode(texts, language, batch_size=batch_size).numpy()

    def starred(self, tasks: Iterable[Any]) -> dict[str, list[str]]:
        """Subsets of tasks in a language that the encoder lacks, by task: their figures say little of the model. None where it
        has no tags, which tell what it knows."""
        found: dict[str, list[str]] = {}
        if not self._has_tags:
            return found
        for task in tasks:
            lacking = [
                subset
                for subset in task.hf_subsets
                if self._table.named(f"{task.metadata.name}/{subset}") is None
                and any(self._known(code) is None for code in task.metadata.hf_subsets_to_langscripts[subset])
            ]
            if lacking:
                found[task.metadata.name] = lacking
        return found

    def _language(self, task: Any, subset: str, prompt_type: str | None) -> str:
        if not self._has_tags:
            return ENGLISH  # no tag is read
        where = f"{task.name}/{subset}"
        for name in ([f"{where}/{prompt_type}"] if prompt_type else []) + [where]:
            if (code := self._table.named(name)) is not None:
                return code
        # Tasks of parallel texts hand over a column, whose name is its language.
        codes = sorted({*task.hf_subsets_to_langscripts.get(subset, [subset])})
        if len(codes) != 1:
            way = f", or say it for queries and documents, as in languages={{'{where}/query': CODE, '{where}/document': CODE}}"
            raise UserError(
                f"{where}: holds {' and '.join(codes)}, and MTEB does not say which of them a text is in; leave it out"
                f"{way if prompt_type else ''}"
            )
        known = self._known(codes[0]) or self._fallback
        if known is None:
            raise UserError(
                f"{where}: the encoder has no tag for {codes[0]}; leave the subset out, name another in languages, or give "
                "fallback=CODE and star its figures (`starred`)"
            )
        return known

    def _known(self, code: str) -> str | None:
        """The FLORES-200 code of MTEB's `deu-Latn`, where the encoder has a tag for it."""
        try:
            found = check_language(code.replace("-", "_"))
        except UserError:
            return None
        return found if found in self.model.languages else None
