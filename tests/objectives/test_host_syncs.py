"""A forward never waits for the device: what the host must know, the collator says.

Counted on the CPU: every operation whose result the host would have to fetch, or whose shape follows from values.
"""

import contextlib

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mtllm_ds.config.balanced import BalancedTeachers as BalancedSettings
from mtllm_ds.config.sections import ModelSettings
from mtllm_ds.data.shards.blocks import Ragged
from mtllm_ds.data.shards.manifest import TaskEntry
from mtllm_ds.data.stream.collate import Collator, Sample
from mtllm_ds.data.text.vocabulary import Vocabulary
from mtllm_ds.models.build import new_reader
from mtllm_ds.models.heads import TaskHead
from mtllm_ds.models.lm_head import load_output_head
from mtllm_ds.objectives.asked_tokens import MaskedTokens, Masking, NextTokens
from mtllm_ds.objectives.balanced_teachers import BalancedTeachers
from mtllm_ds.objectives.masked_next_token import MaskedNextToken
from mtllm_ds.objectives.pooled_alignment import PooledAlignment
from mtllm_ds.objectives.simcse import SimCSE
from mtllm_ds.objectives.task_distillation import TaskDistillation
from mtllm_ds.objectives.task_tuning import TaskTuning
from mtllm_ds.objectives.token_distillation import TokenDistillation
from mtllm_ds.objectives.token_kl_head import TokenLoss
from mtllm_ds.teachers.bank import BankTeacher, TeacherBank
from mtllm_ds.teachers.cached import CachedTeacher
from mtllm_ds.teachers.frozen_self import FrozenSelf
from tests.fixtures.models import LLM_WIDTH, save_llama, save_mt_model

TASK = TaskEntry("topics", "classification", ("a", "b", "c"))
CHOICE = TaskEntry("choice", "multiple_choice", ("1", "2"))
DIALOGUE = TaskEntry("dialogue", "classification", ("a", "b"))
"""Stands for batches of dialogues."""

VOCABULARY = Vocabulary({}, np.arange(512) < 4, np.arange(512) % 3 == 0, 3)

FETCHING = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique", "_unique2", "bincount"}
"""Operators whose result, or its shape, the host waits for."""
PYTHON = {"tolist", "item", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__"}
"""Methods that hand values to Python without an operator."""


class CountOperators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_", "_unsafe_index") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in FETCHING or by_mask:
            self.found.append(f"{name}{' by a mask' if by_mask else ''}")
        return function(*args, **(kwargs or {}))


class CountMethods(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in PYTHON:
            self.found.append(function.__name__)
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def host_waits():
    """Yields the list of what waited."""
    found = []
    with CountMethods() as methods, CountOperators() as operators:
        yield found
    found += methods.found + operators.found


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    names = {"encoder": {"name": str(save_mt_model(folder / "mt"))}, "llm": {"name": str(save_llama(folder / "llm"))}}
    return ModelSettings(**names, lora={"rank": 2, "dropout": 0.1})


def student(models, reader, bidirectional):
    llm = models.given_llm.model_copy(update={"bidirectional": bidirectional})
    settings = models.model_copy(update={"reader": reader, "llm": llm})
    return new_reader(settings, torch.device("cpu"), torch.float32)


def batch(packed, task=None):
    rng = np.random.default_rng(0)
    lengths = [(5, 9), (3, 4), (7, 6)]

    def ids(side):
        return Ragged.from_rows([rng.integers(4, 200, row[side]) for row in lengths], np.uint16)

    block = {"encoder_ids": ids(0), "llm_ids": ids(1)}
    if task is None:
        block["token_pairs"] = Ragged.from_rows([np.array([[1, 1]])] * 3, np.int32)
    else:
        block["label"] = np.array([0, 1, 1])
        block["teacher_pooled"] = rng.normal(size=(3, LLM_WIDTH)).astype(np.float32)
    if task is DIALOGUE:
        block |= {"response_start": np.array([3, 2, 4]), "sample_weight": np.ones(3, np.float32)}
        block["student_prompt_ids"] = Ragged.from_rows(
            [rng.integers(4, 200, length) for length in (2, 5, 3)], np.uint16
        )
    if task is CHOICE:
        spans = [np.array([[0, 1], [1, 2]])] * 3
        block |= {f"{side}_choice_spans": Ragged.from_rows(spans, np.int32) for side in ("encoder", "llm")}
        vectors = rng.normal(size=(3, 2, LLM_WIDTH)).astype(np.float32)
        block["teacher_pooled"] = Ragged.from_rows(list(vectors), np.float32)
    collate = Collator(
        pad_ids={"encoder": 1, "llm": 1}, packing_buckets=2 if packed else 0, language_codes=("deu_Latn",)
    )
    return collate([[Sample(block, row, 0, row) for row in range(3)]])


def language_models(models, packed, bidirectional):
    """Balanced teachers, masked or causal, with a bank and without."""

    def loaded():
        own = student(models, "llm", bidirectional)
        return own, load_output_head(models.given_llm, own, torch.float32)

    for asks in (
        NextTokens(),
        MaskedTokens(VOCABULARY, Masking()),
        MaskedTokens(VOCABULARY, Masking(whole_words=True)),
    ):
        for bank in (None, TeacherBank([("deu_Latn", BankTeacher(*loaded()))], torch.device("cpu"))):
            settings = BalancedSettings(teacher_of={"de": "x"} if bank else {})
            yield BalancedTeachers(*loaded(), asks, bank, 1, settings), batch(packed)


def objectives(models, packed, bidirectional):
    """Every objective with its batch."""
    stack = student(models, "stacked", bidirectional)
    frozen, plain = FrozenSelf(stack), batch(packed)
    yield PooledAlignment(stack, frozen, 1), plain
    yield PooledAlignment(stack, frozen, 1, token_weight=0.5), plain
    for task, labels in ((TASK, 3), (CHOICE, 1)):
        labelled, head = batch(packed, task), TaskHead(LLM_WIDTH, labels)
        cached = CachedTeacher(LLM_WIDTH, of_choices=task is CHOICE)
        for reader in ("stacked", "llm", "encoder"):
            own = student(models, reader, bidirectional)
            yield TaskTuning(own, TaskHead(own.hidden_size, labels), task, 1), labelled
        yield TaskDistillation(stack, cached, head, task, 1, "logits"), labelled
    yield from language_models(models, packed, bidirectional)
    if not bidirectional:
        told, own = batch(packed, DIALOGUE), student(models, "llm", False)
        head = load_output_head(models.given_llm, own, torch.float32)
        for reader, loss in ((stack, TokenLoss(nll_weight=0.5)), (own, TokenLoss(divergence="jsd"))):
            yield TokenDistillation(reader, FrozenSelf(reader), head, loss, 1, reads_prompt=True), told
        yield TokenDistillation(own, None, head, TokenLoss(kl_weight=0.0, nll_weight=1.0), 1, reads_prompt=True), told
    if not packed:
        alone = student(models, "llm", bidirectional)
        yield MaskedNextToken(alone, load_output_head(models.given_llm, alone, torch.float32), 7, 0.3), plain
        yield SimCSE(alone, 3, 0.05, 0.3), plain


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("bidirectional", [True, False], ids=["both_ways", "causal"])
def test_no_forward_makes_the_host_wait(models, packed, bidirectional):
    for objective, data in objectives(models, packed, bidirectional):
        objective.train()
        objective.count(data)  # where the batch still is on the host
        with host_waits() as found:
            objective(data)
        assert found == [], type(objective).__name__


def test_the_counter_counts():
    values = torch.tensor([1.0, 0.0])
    with host_waits() as found:
        values[values > 0]
        values.tolist()
        bool(values.any())
        values.nonzero()
        values.sum().item()
    assert {"tolist", "nonzero", "item", "index by a mask"} <= set(found)
