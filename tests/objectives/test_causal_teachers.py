"""A causal student of a causal teacher like Goldfish's (GPT-2, a vocabulary and specials of its own), against eager float64."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from mtllm_ds.config.balanced import BalancedTeachers as Settings
from mtllm_ds.config.sections import LLMSettings
from mtllm_ds.data.shards.blocks import Ragged
from mtllm_ds.data.stream.collate import Collator, Sample
from mtllm_ds.data.text.tokenization import TokenizerSpec, load_text_tokenizer
from mtllm_ds.models.lm_head import load_output_head
from mtllm_ds.models.loading import load_llm
from mtllm_ds.models.readers import LLMReader
from mtllm_ds.models.trained_head import load_trained_head
from mtllm_ds.objectives.asked_tokens import NextTokens
from mtllm_ds.objectives.balanced_teachers import BalancedTeachers
from mtllm_ds.teachers.bank import BankTeacher, TeacherBank
from mtllm_ds.teachers.outputs import outputs_of
from tests.fixtures.tokenizers import TEXT, save_llama_tokenizer

ALPHA, TEMPERATURE = 0.6, 2.0
GERMAN = [TEXT[3], TEXT[4], "Der Dialog ☃ der Optionen", TEXT[3][:20]]


def save_goldfish(folder):
    """Unigram pieces with [CLS] and [SEP] around a text, which GPT-2 reads in place of <s> and </s>."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    specials = ["<unk>", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    trainer = trainers.UnigramTrainer(vocab_size=160, special_tokens=specials, unk_token="<unk>", show_progress=False)
    backend.train_from_iterator(TEXT, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", cls_token="[CLS]", sep_token="[SEP]", bos_token="[CLS]",
        eos_token="[SEP]", pad_token="[PAD]", mask_token="[MASK]",
    ).save_pretrained(folder)  # fmt: skip
    return save_gpt_2(folder, seed=4, num_pieces=backend.get_vocab_size(), width=16)


def save_gpt_2(folder, seed, num_pieces, width):
    """All of it in float64 where that is asked for: Llama's norms are float32 in any case."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=num_pieces, n_embd=width, n_layer=2, n_head=2, n_positions=128, initializer_range=0.3,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def save_student(folder):
    save_llama_tokenizer(folder)
    return save_gpt_2(folder, seed=5, num_pieces=len(PreTrainedTokenizerFast.from_pretrained(folder)), width=24)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("causal")
    return save_student(folder / "student"), save_goldfish(folder / "goldfish")


def objective_of(folders, dtype):
    student, teacher = (LLMSettings(name=str(folder), bidirectional=False) for folder in folders)
    tokens = outputs_of(student).meet(outputs_of(teacher))
    taught = LLMReader(load_llm(teacher, "sdpa", dtype))
    own = BankTeacher(taught, load_output_head(teacher, taught, dtype), tokens, outputs_of(student).size)
    bank = TeacherBank([("deu_Latn", own)], torch.device("cpu"))
    reader = LLMReader(load_llm(student, "sdpa", dtype)).requires_grad_(True)
    head = load_trained_head(student, reader, dtype, seed=0)
    settings = Settings(teacher_of={"deu_Latn": "x"}, alpha=ALPHA, temperature=TEMPERATURE)
    return BalancedTeachers(reader, head, NextTokens(), bank, 1, settings).train(), tokens


def batch_of(folders):
    tokenizer = load_text_tokenizer(TokenizerSpec(name=str(folders[0]), side="llm"))
    rows = [np.array(tokenizer([text], "deu_Latn")) for text in GERMAN]
    block = {
        "encoder_ids": Ragged.from_rows([row[:0] for row in rows], np.int32),
        "llm_ids": Ragged.from_rows(rows, np.int32),
    }
    collate = Collator(pad_ids={"llm": 0}, language_codes=("deu_Latn",))
    return collate([[Sample(block, row, 0, row)] for row in range(len(rows))]), rows


def eager(folders, rows, tokens):
    """Summed loss and gradients by transformers' own models, a text at a time, probabilities written out."""
    student, teacher = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
        for folder in folders
    )
    own = torch.from_numpy(np.flatnonzero(tokens.tells >= 0))
    theirs = torch.from_numpy(tokens.tells)[own]
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        ids = torch.from_numpy(row).long()
        logits = student(input_ids=ids[None]).logits[0, :-1]
        with torch.no_grad():
            said = teacher(input_ids=torch.from_numpy(tokens.reads)[ids][None]).logits[0, :-1]
        p, q = (said / TEMPERATURE).softmax(-1)[:, theirs], (logits / TEMPERATURE).softmax(-1)[:, own]
        p, q = (torch.cat([side, 1 - side.sum(1, keepdim=True)], 1) for side in (p, q))
        total = total + ALPHA * TEMPERATURE**2 * (p * (p / q).log()).sum()
        total = total + (1 - ALPHA) * functional.cross_entropy(logits, ids[1:], reduction="sum")
    total.backward()
    return total.item(), {name: p.grad for name, p in student.named_parameters()}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_next_tokens_through_a_map_equal_eager_float64(folders, dtype, tolerance):
    objective, tokens = objective_of(folders, dtype)
    data, rows = batch_of(folders)
    assert 0.2 < tokens.coverage(np.concatenate(rows)) < 1
    assert tokens.tells[0] == 1, "the token that begins a text is [CLS] to the teacher"
    output = objective(data)
    output.loss_sum.backward()
    truth, expected = eager(folders, rows, tokens)
    assert objective.count(data) == sum(len(row) - 1 for row in rows)
    assert output.loss_sum.item() == pytest.approx(truth, rel=tolerance)
    found = {name.replace("student.llm.", "transformer."): p.grad for name, p in objective.named_parameters()}
    whole = torch.cat([gradient.flatten() for gradient in expected.values()]).norm()
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= tolerance * whole, name
