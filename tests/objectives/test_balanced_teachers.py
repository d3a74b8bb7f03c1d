"""Balanced teachers against transformers' own models in eager float64, and what must not change the loss."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForMaskedLM

from mtllm_ds.config.balanced import BalancedTeachers as Settings
from mtllm_ds.config.sections import LLMSettings, LoraSettings
from mtllm_ds.data.shards.blocks import Ragged
from mtllm_ds.data.stream.collate import Collator, Sample
from mtllm_ds.data.text.tokenization import TokenizerSpec, load_text_tokenizer
from mtllm_ds.data.text.vocabulary import vocabulary_of
from mtllm_ds.models.lm_head import load_output_head
from mtllm_ds.models.loading import load_llm
from mtllm_ds.models.lora import add_lora
from mtllm_ds.models.readers import LLMReader
from mtllm_ds.models.trained_head import load_trained_head
from mtllm_ds.objectives.asked_tokens import MaskedTokens, Masking
from mtllm_ds.objectives.balanced_teachers import BalancedTeachers
from mtllm_ds.objectives.base import StepWeights
from mtllm_ds.teachers.bank import BankTeacher, TeacherBank
from mtllm_ds.teachers.storage import Storage
from tests.fixtures.models import save_masked_lm

CPU = torch.device("cpu")
LANGUAGES = ("deu_Latn", "fra_Latn", "khm_Khmr")
TEACHERS = {"deu_Latn": "german", "fra_Latn": "french", "khm_Khmr": "khmer"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank")
    save_masked_lm(folder / "student", seed=1)
    for seed, name in enumerate(TEACHERS.values(), 2):
        save_masked_lm(folder / name, seed=seed, hidden_size=16 + 8 * seed)
    save_masked_lm(folder / "untied", seed=9, tie_word_embeddings=False)
    return folder


def reader_and_head(place, dtype, trains=False):
    settings = LLMSettings(name=str(place))
    reader = LLMReader(load_llm(settings, "sdpa", dtype))
    if not trains:
        return reader, load_output_head(settings, reader, dtype)
    reader.requires_grad_(True)
    return reader, load_trained_head(settings, reader, dtype, seed=0)


def bank_of(folder, dtype=torch.float64, on_device=None, teachers=TEACHERS, device=CPU):
    loaded = {code: BankTeacher(*reader_and_head(folder / name, dtype)) for code, name in teachers.items()}
    return TeacherBank(loaded.items(), device, on_device)


def masks_of(folder, **options):
    spec = TokenizerSpec(name=str(folder / "student"), side="llm")
    return MaskedTokens(vocabulary_of(load_text_tokenizer(spec)), Masking(**options))


def objective_of(folder, bank, dtype=torch.float64, student="student", alpha=0.5, temperature=2.0, **options):
    reader, head = reader_and_head(folder / student, dtype, trains=True)
    chosen = dict(TEACHERS) if bank is not None else {}
    settings = Settings(teacher_of=chosen, alpha=alpha or 0.5, temperature=temperature, mask_share=0.3)
    made = BalancedTeachers(
        reader, head, masks_of(folder), bank, len(LANGUAGES), settings, label_weight=1 - alpha, **options
    )
    made.step_seed = 5
    return made.train()


def batch(languages=(0, 1, 1, 2, 0, 2), cells=None, packing=0, seed=0):
    rng = np.random.default_rng(seed)
    rows = [np.array([2, *rng.integers(5, 350, size), 3]) for size in (14, 9, 5, 2, 7, 11)[: len(languages)]]
    block = {
        "encoder_ids": Ragged.from_rows([row[:0] for row in rows], np.int32),
        "llm_ids": Ragged.from_rows(rows, np.int32),
    }
    cells = cells or range(len(rows))
    collate = Collator(pad_ids={"llm": 0}, packing_buckets=packing, language_codes=LANGUAGES)
    return collate([[Sample(block, row, languages[row], 40 + row)] for row in cells])


def eager(folder, objective, data, alpha, temperature, student="student"):
    """Summed loss and its gradients by transformers' own models, a row at a time, logits in full."""
    load = lambda name: AutoModelForMaskedLM.from_pretrained(  # noqa: E731
        folder / name, dtype=torch.float64, attn_implementation="eager"
    ).eval()
    model, teachers = load(student), {code: load(name) for code, name in TEACHERS.items()}
    shown, masked = objective.asks.shown(data, objective._draw())
    total = torch.zeros((), dtype=torch.float64)
    for row in range(len(data)):
        length, own = int(data.llm_mask[row].sum()), masked[row]
        ids, asked = shown[row, :length][None], own[:length]
        logits = model(input_ids=ids).logits[0][asked]
        wanted = data.llm_ids[row, :length][asked]
        with torch.no_grad():
            taught = teachers[LANGUAGES[data.languages[row]]](input_ids=ids).logits[0][asked]
        p, q = (taught / temperature).softmax(-1), (logits / temperature).log_softmax(-1)
        kl = (p * (p.log() - q)).sum()
        total = (
            total
            + alpha * temperature**2 * kl
            + (1 - alpha) * functional.cross_entropy(logits, wanted, reduction="sum")
        )
    total.backward()
    return total.item(), {
        name.replace("decoder.", ""): p.grad for name, p in model.named_parameters() if p.grad is not None
    }


def gradients(objective):
    """By transformers' names."""
    names = {"student.llm.": "bert.", "lm_head.transform.": "cls.predictions.", "lm_head.": "cls.predictions."}
    found = {}
    for name, parameter in objective.named_parameters():
        if parameter.grad is None:
            continue
        prefix = next(prefix for prefix in names if name.startswith(prefix))
        found[names[prefix] + name.removeprefix(prefix)] = parameter.grad
    return found


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("student", ["student", "untied"])
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_loss_and_gradients_equal_eager_float64(folder, dtype, tolerance, student, alpha):
    objective, data = objective_of(folder, bank_of(folder, dtype), dtype, student, alpha), batch()
    output = objective(data)
    output.loss_sum.backward()
    truth, expected = eager(folder, objective, data, alpha, 2.0, student)
    assert output.loss_sum.item() == pytest.approx(truth, rel=tolerance)
    found = gradients(objective)
    assert found.keys() == expected.keys()
    whole = torch.cat([g.flatten() for g in expected.values()]).norm()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= tolerance * whole, name
    assert float(output.sums["loss"].sum()) == pytest.approx(truth, rel=tolerance)
    assert objective.count(data) == output.sums["count"].sum()


def test_alpha_0_is_transformers_masked_language_modelling(folder):
    """Without teachers, and without a word of ours: transformers' loss from labels."""
    objective, data = objective_of(folder, None, alpha=0.0), batch()
    output = objective(data)
    shown, masked = objective.asks.shown(data, objective._draw())
    model = AutoModelForMaskedLM.from_pretrained(folder / "student", dtype=torch.float64).eval()
    labels = data.llm_ids.masked_fill(~masked, -100)
    truth = model(input_ids=shown, attention_mask=data.llm_mask, labels=labels).loss
    assert output.loss_sum.item() / objective.count(data) == pytest.approx(truth.item(), rel=1e-10)


@pytest.mark.parametrize("on_device", [1, 2, 3])
def test_where_teachers_lie_changes_nothing(folder, on_device):
    data = batch()
    bank = bank_of(folder, on_device=on_device)
    objective = objective_of(folder, bank)
    objective.prepare([data, data], coming(*LANGUAGES))
    assert objective(data).loss_sum.item() == objective_of(folder, bank_of(folder))(data).loss_sum.item()
    assert len(bank.resident) == on_device
    assert objective(data).loss_sum.item() == objective_of(folder, bank_of(folder))(data).loss_sum.item()


def coming(*languages):
    """A step before one whose first forward holds these."""
    return StepWeights(None, None, CPU, languages)


def test_the_last_forward_of_a_step_fetches_for_the_next_one(folder):
    bank = bank_of(folder, on_device=2)
    objective = objective_of(folder, bank)
    for data in objective.prepare([batch((1,) * 6), batch((0,) * 6)], coming("khm_Khmr", "fra_Latn")):
        objective(data)
    assert bank.resident == ("deu_Latn", "khm_Khmr"), "as many as there is room for beside the one asked last"


class Poisoned(Storage):
    """Weights that are NaN wherever their teacher was given back, or not yet asked for."""

    released = 0

    def __init__(self, module, device):
        super().__init__(module, device)
        self.homes = [(tensor, tensor.data.clone()) for tensor in (*module.parameters(), *module.buffers())]
        self.release()

    def bring(self):
        for tensor, home in self.homes:
            tensor.data = home.clone()

    def release(self):
        Poisoned.released += 1
        for tensor, home in self.homes:
            tensor.data = torch.full_like(home, float("nan")) if home.is_floating_point() else torch.zeros_like(home)


@pytest.mark.parametrize("on_device", [1, 2])
def test_nothing_reads_a_teacher_that_gave_way(folder, on_device, monkeypatch):
    """Three languages over two steps of two forwards each, with every gradient."""
    expected = two_steps(folder, bank_of(folder))
    monkeypatch.setattr("mtllm_ds.teachers.bank.OnHost", Poisoned)
    Poisoned.released = 0
    found = two_steps(folder, bank_of(folder, on_device=on_device))
    assert Poisoned.released > len(LANGUAGES) + 2, "teachers gave way to each other"
    assert found[0] == expected[0]
    assert all(torch.equal(one, other) for one, other in zip(found[1], expected[1], strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("on_device", [1, 2])
def test_on_a_gpu_teachers_that_come_and_go_teach_the_same(folder, on_device):
    cuda = torch.device("cuda")
    expected = two_steps(folder, bank_of(folder, torch.float32, device=cuda), torch.float32, cuda)
    found = two_steps(folder, bank_of(folder, torch.float32, on_device, device=cuda), torch.float32, cuda)
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    for one, other in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def two_steps(folder, bank, dtype=torch.float64, device=CPU):
    """Losses of the forwards, and what the student's weights have become."""
    objective = objective_of(folder, bank, dtype).to(device)
    optimizer = torch.optim.SGD(objective.parameters(), lr=1e-2)
    losses = []
    for step in range(2):
        objective.step_seed = step
        for data in objective.prepare([batch(seed=2 * step), batch((2, 0, 1), seed=2 * step + 1)], coming("khm_Khmr")):
            objective.count(data)
            output = objective(data.to(device))
            output.loss_sum.backward()
            losses.append(output.loss_sum.item())
        optimizer.step()
        optimizer.zero_grad()
    return losses, [parameter.detach() for parameter in objective.parameters()]


def test_neither_packing_nor_cells_nor_company_changes_the_loss(folder):
    whole = objective_of(folder, bank_of(folder))(batch()).loss_sum.item()
    packed = objective_of(folder, bank_of(folder))(batch(packing=1)).loss_sum.item()
    assert packed == pytest.approx(whole, rel=1e-10)
    apart = [objective_of(folder, bank_of(folder))(batch(cells=[row])).loss_sum.item() for row in range(6)]
    assert sum(apart) == pytest.approx(whole, rel=1e-10)
    turned = objective_of(folder, bank_of(folder))(batch(cells=[4, 2, 5, 0, 3, 1])).loss_sum.item()
    assert turned == pytest.approx(whole, rel=1e-10)


def test_what_nobody_is_asked_for_and_other_teachers_may_hold_nan(folder):
    data = batch(languages=(0, 0, 1))
    truth = objective_of(folder, bank_of(folder))(data).loss_sum
    bank = bank_of(folder)
    for parameter in bank.teacher("khm_Khmr").parameters():
        parameter.data.fill_(float("nan"))
    objective = objective_of(folder, bank)
    _, masked = objective.asks.shown(data, objective._draw())
    _spoil(objective.student, masked)
    for code, rows in (("deu_Latn", [0, 1]), ("fra_Latn", [2])):
        _spoil(bank.teacher(code).model, masked[rows])
    output = objective(data)
    output.loss_sum.backward()
    assert output.loss_sum.item() == truth.item()
    assert all(p.grad.isfinite().all() for n, p in objective.named_parameters() if n.startswith("lm_head"))


def _spoil(reader, masked):
    """NaN in the states of tokens that are not masked."""
    read = reader.states
    reader.states = lambda ids, mask: read(ids, mask).masked_fill(~masked[:, : ids.shape[1], None], float("nan"))


def test_a_student_like_its_teacher_has_nothing_to_learn(folder):
    bank = bank_of(folder, teachers=dict.fromkeys(LANGUAGES, "student"))
    objective = objective_of(folder, bank, alpha=1.0)
    output = objective(batch())
    output.loss_sum.backward()
    assert output.loss_sum.item() == pytest.approx(0.0, abs=1e-12)
    assert all(p.grad.abs().max() < 1e-12 for p in objective.parameters() if p.grad is not None)


def test_a_forward_without_samples_weighs_nothing_and_reaches_every_weight(folder):
    full, empty = objective_of(folder, bank_of(folder)), objective_of(folder, bank_of(folder))
    full(batch()).loss_sum.backward()
    output = empty(Collator(pad_ids={"llm": 0}, language_codes=LANGUAGES)([]))
    output.loss_sum.backward()
    assert output.loss_sum.item() == 0.0
    assert empty.count(Collator(pad_ids={"llm": 0})([])) == 0
    assert {n for n, p in empty.named_parameters() if p.grad is not None} == {
        n for n, p in full.named_parameters() if p.grad is not None
    }
    assert all((p.grad == 0).all() for p in empty.parameters() if p.grad is not None)
    assert all((value == 0).all() for value in output.sums.values())


def test_validation_says_what_each_teacher_knows(folder):
    objective, data = objective_of(folder, bank_of(folder)).eval(), batch()
    with torch.no_grad():
        sums = objective(data).sums
        again = objective(data).sums
    assert all(torch.equal(sums[name], again[name]) for name in sums)
    figures = objective.summarize(sums, LANGUAGES)
    shown, masked = objective.asks.shown(data, objective._draw())
    models = {
        name: AutoModelForMaskedLM.from_pretrained(folder / name, dtype=torch.float64).eval()
        for name in ("student", *TEACHERS.values())
    }
    labels = data.llm_ids.masked_fill(~masked, -100)
    for index, (code, name) in enumerate(TEACHERS.items()):
        rows = data.languages == index
        for figure, model in ((f"nll/{code}", models["student"]), (f"teacher_nll/{code}", models[name])):
            with torch.no_grad():
                truth = model(input_ids=shown[rows], attention_mask=data.llm_mask[rows], labels=labels[rows]).loss
            assert figures[figure] == pytest.approx(truth.item(), rel=1e-10)
    mixed = 0.5 * 4.0 * figures["kl"] + 0.5 * figures["nll"]
    assert figures["loss"] == pytest.approx(mixed, rel=1e-10)
    assert 0 <= figures["accuracy"] <= 1


def test_with_lora_the_tied_matrix_stays_and_the_rest_of_the_head_trains(folder):
    settings = LLMSettings(name=str(folder / "student"))
    reader = LLMReader(add_lora(load_llm(settings, "sdpa", torch.float32), LoraSettings(rank=2), seed=0))
    head = load_trained_head(settings, reader, torch.float32, seed=0)
    trained = {name for name, parameter in head.named_parameters() if parameter.requires_grad}
    assert "weight" not in trained
    assert {"bias", "transform.transform.dense.weight"} <= trained
    assert head.weight is reader.trained_model.get_input_embeddings().weight


def test_masking_over_phases_changes_how_many_are_asked_for(folder):
    objective, data = objective_of(folder, None, alpha=0.0), batch()
    objective.settings = objective.settings.model_copy(
        update={"mask_share": Settings(mask_share=[[0.5, 0.5], [0.5, 0.1]]).mask_share}
    )
    objective.step_share = 0.2
    many = objective.count(replace(data, host=None))
    objective.step_share = 0.7
    few = objective.count(data)
    assert (many, few) == (26, 6)  # of 14, 9, 5, 2, 7 and 11 tokens
    assert objective(data).sums["count"].sum() == few
