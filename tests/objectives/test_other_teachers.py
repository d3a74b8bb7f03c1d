"""Teachers with vocabularies of their own, and causal ones, against transformers' own models in eager float64."""

import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from mtllm_ds.config.balanced import BalancedTeachers as Settings
from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.data.shards.blocks import Ragged
from mtllm_ds.data.stream.collate import Collator, Sample
from mtllm_ds.models.lm_head import load_output_head
from mtllm_ds.models.loading import load_llm
from mtllm_ds.models.own_code import load_own_code
from mtllm_ds.models.readers import LLMReader
from mtllm_ds.models.trained_head import load_trained_head
from mtllm_ds.objectives.asked_tokens import MaskedTokens, Masking, NextTokens
from mtllm_ds.objectives.balanced_teachers import BalancedTeachers
from mtllm_ds.teachers.bank import BankTeacher, TeacherBank
from mtllm_ds.teachers.outputs import outputs_of
from tests.fixtures.models import save_llama, save_masked_lm
from tests.fixtures.own_code import give_own_model
from tests.fixtures.tokenizers import save_gemma_tokenizer, save_xlm_r_tokenizer

CPU, LANGUAGES, T, ALPHA = torch.device("cpu"), ("deu_Latn", "fra_Latn"), 2.0, 0.6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("other")
    unigrams, pairs = save_xlm_r_tokenizer(folder / "unigrams"), save_gemma_tokenizer(folder / "pairs")
    save_masked_lm(folder / "student", seed=1, tokenizer=unigrams)
    save_masked_lm(folder / "deu_Latn", seed=2, tokenizer=pairs)
    save_masked_lm(folder / "fra_Latn", seed=3, tokenizer=unigrams)
    for seed, name in enumerate(("student", *LANGUAGES), 1):
        save_llama(folder / f"causal_{name}", seed=seed)
    return folder


def settings_of(place, bidirectional):
    return LLMSettings(name=str(place), bidirectional=bidirectional)


def objective_of(folder, prefix, asks, bidirectional=True):
    own = settings_of(folder / f"{prefix}student", bidirectional)
    teachers = {}
    for language in LANGUAGES:
        llm = settings_of(folder / f"{prefix}{language}", bidirectional)
        reader = LLMReader(load_llm(llm, "sdpa", torch.float64))
        head = load_output_head(llm, reader, torch.float64)
        student = outputs_of(own)
        teachers[language] = BankTeacher(reader, head, student.meet(outputs_of(llm)), student.size)
    reader = LLMReader(load_llm(own, "sdpa", torch.float64)).requires_grad_(True)
    head = load_trained_head(own, reader, torch.float64, seed=0)
    settings = Settings(teacher_of=dict.fromkeys(LANGUAGES, "x"), alpha=ALPHA, temperature=T, mask_share=0.3)
    return BalancedTeachers(reader, head, asks, TeacherBank(teachers.items(), CPU, 1), 2, settings)


def batch(size, packing=0):
    rng = np.random.default_rng(0)
    rows = [rng.integers(5, size, length) for length in (12, 7, 9, 3)]
    block = {
        "encoder_ids": Ragged.from_rows([row[:0] for row in rows], np.int32), "llm_ids": Ragged.from_rows(rows, np.int32),
    }  # fmt: skip
    collate = Collator(pad_ids={"llm": 0}, packing_buckets=packing, language_codes=LANGUAGES)
    return collate([[Sample(block, row, language, row)] for row, language in enumerate((0, 1, 1, 0))])


def test_a_teacher_with_its_own_vocabulary(folder):
    student = outputs_of(settings_of(folder / "student", True))
    objective = objective_of(folder, "", MaskedTokens(_vocabulary(student), Masking()))
    data = batch(student.tokenizer.vocab_size)
    tokens = student.meet(outputs_of(settings_of(folder / "deu_Latn", True)))
    own, theirs = torch.tensor(np.flatnonzero(tokens.tells >= 0)), torch.tensor(tokens.tells[tokens.tells >= 0])
    assert 20 < len(own) < student.size
    model, *teachers = (
        AutoModelForMaskedLM.from_pretrained(folder / name, dtype=torch.float64) for name in ("student", *LANGUAGES)
    )
    objective.eval()
    shown, masked = objective.asks.shown(data, objective._draw())
    total, seen, told, shared = 0.0, 0, 0.0, 0.0
    for row in range(4):
        length, german = int(data.llm_mask[row].sum()), int(data.languages[row]) == 0
        ids, asked = shown[row, :length], masked[row, :length]
        wanted = data.llm_ids[row, :length][asked]
        with torch.no_grad():
            q = (model(input_ids=ids[None]).logits[0][asked] / T).softmax(-1)
            read = torch.tensor(tokens.reads)[ids] if german else ids
            logits = teachers[int(data.languages[row])](input_ids=read[None]).logits[0][asked]
            each = functional.cross_entropy(model(input_ids=ids[None]).logits[0][asked], wanted, reduction="none")
            nll = each.sum()
        p = (logits / T).softmax(-1)
        if german:
            q, p = (
                torch.cat([side[:, ids], 1 - side[:, ids].sum(1, keepdim=True)], 1)
                for side, ids in ((q, own), (p, theirs))
            )
            has = torch.tensor(tokens.tells)[wanted]
            told += functional.cross_entropy(logits, has, ignore_index=-1, reduction="sum").item()
            seen += int((has >= 0).sum())
            shared += each[has >= 0].sum().item()
        total += (ALPHA * T**2 * (p * (p / q).log()).sum() + (1 - ALPHA) * nll).item()
    with torch.no_grad():
        sums = objective(data).sums
    assert float(sums["loss"].sum()) == pytest.approx(total, rel=1e-10)
    assert float(sums["taught"][0]) == seen
    assert 0 < seen < float(sums["told"][0])
    assert float(sums["teacher_nll"][0]) == pytest.approx(told, rel=1e-10)
    assert float(sums["shared_nll"][0]) == pytest.approx(shared, rel=1e-10)
    figures = objective.summarize(sums, LANGUAGES)
    assert figures["shared_nll/deu_Latn"] == pytest.approx(shared / seen, rel=1e-10)
    assert figures["shared_nll/fra_Latn"] == figures["nll/fra_Latn"], "which has the student's vocabulary"
    training = objective.train()(data)
    training.loss_sum.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in objective.parameters())


def _vocabulary(outputs):
    from mtllm_ds.data.text.vocabulary import vocabulary_of

    return vocabulary_of(outputs.tokenizer)


@pytest.mark.parametrize("packing", [0, 1])
def test_causal_teachers_and_student(folder, packing):
    """Loss and gradients of every next token; a Llama's matrix is its own."""
    objective = objective_of(folder, "causal_", NextTokens(), bidirectional=False).train()
    data = batch(400, packing)
    output = objective(data)
    output.loss_sum.backward()
    model, *teachers = (
        AutoModelForCausalLM.from_pretrained(folder / f"causal_{name}", dtype=torch.float64, attn_implementation="sdpa")
        for name in ("student", *LANGUAGES)
    )
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row in range(4):
        ids = data.llm_ids[row, : int(data.llm_mask[row].sum())][None]
        logits = model(input_ids=ids).logits[0, :-1]  # its own loss is float32
        with torch.no_grad():
            p = (teachers[int(data.languages[row])](input_ids=ids).logits[0, :-1] / T).softmax(-1)
        kl = (p * (p.log() - (logits / T).log_softmax(-1))).sum()
        total = total + ALPHA * T**2 * kl + (1 - ALPHA) * functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
        count += ids.shape[1] - 1
    total.backward()
    assert objective.count(data) == count
    assert output.loss_sum.item() == pytest.approx(total.item(), rel=1e-10)
    own = dict(objective.named_parameters())
    for name, parameter in model.named_parameters():
        mine = own["lm_head.weight" if name == "lm_head.weight" else f"student.llm.{name.removeprefix('model.')}"]
        torch.testing.assert_close(mine.grad, parameter.grad, rtol=1e-8, atol=1e-10)


def test_a_teacher_with_code_of_its_own_says_what_the_known_one_does(folder, tmp_path):
    """The same weights, once as a Llama and once as a class that comes with its folder."""
    own = give_own_model(shutil.copytree(folder / "causal_deu_Latn", tmp_path / "own"))
    data, losses = batch(400), []
    for llm in (
        settings_of(folder / "causal_deu_Latn", False),
        LLMSettings(name=str(own), bidirectional=False, trust_remote_code=True),
    ):
        objective = objective_of(folder, "causal_", NextTokens(), bidirectional=False)
        student, outputs = outputs_of(settings_of(folder / "causal_student", False)), outputs_of(llm)
        assert outputs.is_own_code == llm.trust_remote_code
        if outputs.is_own_code:
            teacher = BankTeacher(load_own_code(llm, torch.float64), None, student.meet(outputs), student.size)
            objective._bank._teachers["deu_Latn"] = teacher
        losses.append([objective.train()(data).loss_sum.item(), *objective.eval()(data).sums["teacher_nll"].tolist()])
    assert losses[1] == pytest.approx(losses[0], rel=1e-10)
