"""Which teachers are on the device: the least recently used give way, and on a GPU nothing else changes."""

import pytest
import torch

from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.models.lm_head import load_output_head
from mtllm_ds.models.loading import load_llm
from mtllm_ds.models.readers import LLMReader
from mtllm_ds.objectives.asked_tokens import Draw
from mtllm_ds.teachers.bank import BankTeacher, TeacherBank
from tests.fixtures.models import save_masked_lm
from tests.objectives.test_asked_tokens import batch, masks

LANGUAGES = ("deu_Latn", "fra_Latn", "ces_Latn")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank")
    return {code: save_masked_lm(folder / code, seed=seed) for seed, code in enumerate(LANGUAGES)}


def bank_of(folders, on_device, device="cpu"):
    teachers = {}
    for code, folder in folders.items():
        llm = LLMSettings(name=str(folder))
        reader = LLMReader(load_llm(llm, "sdpa", torch.float32))
        teachers[code] = BankTeacher(reader, load_output_head(llm, reader, torch.float32))
    return TeacherBank(teachers.items(), torch.device(device), on_device)


def test_the_least_recently_used_gives_way(folders):
    bank = bank_of(folders, 2)
    for code in ("deu_Latn", "fra_Latn", "deu_Latn", "ces_Latn"):
        bank.teacher(code)
    assert bank.resident == ("deu_Latn", "ces_Latn")
    bank.expect(["fra_Latn", "deu_Latn"])
    assert bank.resident == ("ces_Latn", "fra_Latn"), "what is asked now stays"
    alone = bank_of(folders, 1)
    alone.teacher("deu_Latn")
    alone.expect(["fra_Latn"])
    assert alone.resident == ("deu_Latn",)
    assert bank.asked(["fra_Latn"]) == ["fra_Latn"]


def test_shares_are_put_away_before_the_next_teacher_is_loaded(folders):
    loaded, whole = bank_of(folders, None)._teachers, []

    def one_by_one():
        for code in LANGUAGES:
            yield code, loaded[code]
            whole.append(sum(parameter.numel() for parameter in loaded[code].parameters()))

    bank = TeacherBank(one_by_one(), torch.device("cpu"), in_shares=True)
    assert whole == [0, 0, 0]
    assert all(parameter.numel() for parameter in bank.teacher("fra_Latn").parameters())


def test_a_head_that_is_held_on_to_holds_nothing_of_a_body_in_shares(folders):
    loaded = bank_of(folders, None)._teachers
    bank = TeacherBank(loaded.items(), torch.device("cpu"), 1, in_shares=True)
    own = set(loaded["deu_Latn"].head.parameters())
    held = bank.teacher("deu_Latn").head.weight.detach()
    size = sum(parameter.numel() for parameter in own)
    bank.teacher("fra_Latn")
    assert size > 0
    assert held.untyped_storage().nbytes() == 4 * size


def test_teachers_never_train(folders):
    bank = bank_of(folders, None)
    for code in LANGUAGES:
        teacher = bank.teacher(code)
        assert not teacher.training
        assert not any(parameter.requires_grad for parameter in teacher.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_teachers_come_and_go_and_say_the_same(folders):
    ids, mask = torch.randint(5, 350, (4, 20)), torch.ones(4, 20, dtype=torch.int64)
    expected = {
        code: bank_of(folders, None, "cuda").teacher(code).answers(ids.cuda(), mask.cuda()) for code in LANGUAGES
    }
    bank = bank_of(folders, 2, "cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = []
        for turn in range(12):
            code, coming = LANGUAGES[turn % 3], LANGUAGES[(turn + 1) % 3]
            found.append((code, bank.teacher(code).answers(ids.cuda(), mask.cuda())))
            bank.expect([coming])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(states, expected[code]) for code, states in found)
    on_device = sum(p.is_cuda for code in LANGUAGES for p in bank._teachers[code].parameters())
    assert on_device == 2 * len(list(bank._teachers["deu_Latn"].parameters()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("whole_words", [False, True])
def test_on_a_gpu_masks_are_the_same_bits(whole_words):
    data, asks = batch((60, 41, 12, 3) * 8), masks(whole_words=whole_words)
    expected, found = asks.shown(data, Draw(3, 0.3)), asks.cuda().shown(data.to("cuda"), Draw(3, 0.3))
    assert torch.equal(found.ids.cpu(), expected.ids)
    assert torch.equal(found.asked.cpu(), expected.asked)
