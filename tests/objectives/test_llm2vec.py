"""LLM2Vec's two losses against float64, written out position by position."""

import itertools
import math

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import FalconConfig, FalconModel, LlamaConfig, LlamaForCausalLM, LlamaModel

from mtllm_ds.config.sections import LLMSettings, LoraSettings
from mtllm_ds.data.stream.collate import Batch, Collator
from mtllm_ds.errors import UserError
from mtllm_ds.models.lm_head import OutputHead, load_output_head
from mtllm_ds.models.loading import load_llm
from mtllm_ds.models.lora import add_lora
from mtllm_ds.models.readers import LLMReader
from mtllm_ds.objectives.masked_next_token import MaskedNextToken, ToldTokens, require_causal
from mtllm_ds.objectives.simcse import SimCSE
from tests.fixtures.models import save_bert, save_llama

MASK = 7


def batch(lengths=(12, 9, 5, 2, 1), valid=None):
    ids = torch.randint(10, 400, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    valid = torch.ones(len(lengths), dtype=torch.bool) if valid is None else valid
    return Batch(
        ids,
        mask,
        ids.clone(),
        mask,
        torch.zeros(len(lengths), dtype=torch.int64),
        valid,
        torch.arange(len(lengths)),
        cells=torch.arange(len(lengths)) // 2,
    )


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def llm(request, tmp_path_factory):
    folder = save_llama(tmp_path_factory.mktemp("llm"))
    if request.param:
        torch.manual_seed(3)
        config = LlamaConfig.from_pretrained(folder, tie_word_embeddings=True)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def reader_of(folder):
    settings = LLMSettings(name=str(folder))
    adapted = add_lora(load_llm(settings, "sdpa", torch.float32), LoraSettings(rank=2, dropout=0.0), seed=0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    return LLMReader(adapted), settings


class Eager:
    """The same weights in float64, LoRA merged, eager attention in both directions, a row at a time."""

    def __init__(self, folder):
        reader, _ = reader_of(folder)
        assert isinstance(reader.llm, PeftModel)
        base = reader.llm.double().merge_and_unload()
        self.model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
        self.model.model.load_state_dict(base.state_dict())
        if self.model.config.tie_word_embeddings:
            self.model.tie_weights()

    def states(self, ids):
        bidirectional = torch.zeros(1, 1, len(ids), len(ids), dtype=torch.float64)
        return self.model.model(input_ids=ids[None], attention_mask=bidirectional).last_hidden_state[0]


def test_masked_next_token_equals_float64(llm):
    reader, settings = reader_of(llm)
    objective = MaskedNextToken(reader, load_output_head(settings, reader, torch.float32), MASK, 0.3).eval()
    data, eager = batch(), Eager(llm)
    output = objective(data)
    masked = masked_by(objective, data)
    assert masked.sum(1).tolist() == [3, 2, 1, 1, 0]  # 0.3 of 11, 8, 4, 1 and 0 tokens; at least one where there is one
    assert not masked[:, 0].any()
    assert not (masked & (data.llm_mask == 0)).any()
    assert objective.count(data) == 7 == output.sums["count"]
    truth, right = 0.0, 0
    with torch.no_grad():
        for row in range(5):
            length = int(data.llm_mask[row].sum())
            ids = data.llm_ids[row, :length]
            states = eager.states(ids.masked_fill(masked[row, :length], MASK))
            for position in masked[row].nonzero()[:, 0].tolist():
                log_probs = (eager.model.lm_head.weight @ states[position - 1]).log_softmax(-1)
                truth -= float(log_probs[ids[position]])
                right += int(log_probs.argmax() == ids[position])
    assert output.loss_sum.item() == pytest.approx(truth, rel=1e-5)
    figures = objective.summarize(output.sums, ("eng_Latn",))
    assert figures == {"loss": pytest.approx(truth / 7, rel=1e-5), "masked_accuracy": right / 7}


def masked_by(objective, data):
    """(B, S) bool, which tokens are masked."""
    places, there = objective.masked_places(data)
    masked = torch.zeros_like(data.llm_ids, dtype=torch.bool)
    for row, (own, is_there) in enumerate(zip(places, there, strict=True)):
        masked[row, own[is_there]] = True
    return masked


def row_alone(data, row):
    """A batch of one row, without the padding that longer ones gave it."""
    rows = {name: value[row : row + 1] for name, value in vars(data).items() if isinstance(value, torch.Tensor)}
    width = int(data.llm_mask[row].sum())
    return Batch(
        **rows
        | {name: rows[name][:, :width] for name in rows if name.endswith(("_ids", "_mask")) and rows[name].ndim > 1}
    )


def test_masks_follow_step_and_sample_in_training_and_the_sample_in_validation(llm):
    reader, settings = reader_of(llm)
    objective = MaskedNextToken(reader, load_output_head(settings, reader, torch.float32), MASK, 0.3)
    data = batch()
    objective.eval()
    seen = [masked_by(objective, data)]
    objective.step_seed = 5
    assert torch.equal(masked_by(objective, data), seen[0])
    objective.train()
    for step_seed in (5, 6):
        objective.step_seed = step_seed
        seen.append(masked_by(objective, data))
        for row in range(4):
            alone = masked_by(objective, row_alone(data, row))
            assert torch.equal(alone[0], seen[-1][row, : alone.shape[1]])
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(seen, 2))


def test_a_forward_without_samples_weighs_nothing(llm):
    reader, settings = reader_of(llm)
    objective = MaskedNextToken(reader, load_output_head(settings, reader, torch.float32), MASK, 0.3).train()
    empty = Collator(pad_ids={"encoder": 1, "llm": 1})([])
    assert objective.count(empty) == 0
    output = objective(empty)
    output.loss_sum.backward()
    assert output.loss_sum.item() == 0.0
    assert output.sums["count"].item() == 0.0


def test_rows_without_weight_and_only_lora_learns(llm):
    reader, settings = reader_of(llm)
    objective = MaskedNextToken(reader, load_output_head(settings, reader, torch.float32), MASK, 0.3).eval()
    part = batch(valid=torch.tensor([True, False, True, False, False]))
    assert objective.count(part) == 4
    output = objective(part)
    whole = objective(batch((12, 9, 5)))
    assert output.loss_sum.item() < whole.loss_sum.item()
    output.loss_sum.backward()
    for name, parameter in objective.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad == (".lora_" in name), name


def test_an_llm_without_a_head_is_refused(llm, tmp_path):
    reader, _ = reader_of(llm)
    headless = LlamaModel.from_pretrained(llm)
    headless.config.tie_word_embeddings = False
    headless.save_pretrained(tmp_path / "headless")
    with pytest.raises(UserError, match="no language-model head"):
        load_output_head(LLMSettings(name=str(tmp_path / "headless")), reader, torch.float32)
    bert = save_bert(tmp_path / "bert")
    with pytest.raises(UserError, match="a bert encoder, which looks both ways already"):
        require_causal(LLMSettings(name=str(bert)))


def test_simcse_equals_float64(llm):
    reader, _ = reader_of(llm)
    valid = torch.tensor([True, True, True, True, False])
    data, eager = batch((12, 9, 5, 4, 3), valid), Eager(llm)
    objective = SimCSE(reader, num_together=2, temperature=0.5, attention_dropout=0.3).eval()
    output = objective(data)
    with torch.no_grad():
        vectors = [
            eager.states(ids[mask.bool()]).mean(0) for ids, mask in zip(data.llm_ids, data.llm_mask, strict=True)
        ]
    cosine = nn.functional.cosine_similarity
    truth = 0.0
    for row, rivals in ((0, (0, 1)), (1, (0, 1)), (2, (2, 3)), (3, (2, 3))):
        scores = [math.exp(cosine(vectors[row], vectors[rival], dim=0).item() / 0.5) for rival in rivals]
        truth -= math.log(scores[rivals.index(row)] / sum(scores))
    assert output.loss_sum.item() == pytest.approx(truth, rel=1e-4)
    assert objective.count(data) == 4
    figures = objective.summarize(output.sums, ("eng_Latn",))
    assert figures["self_similarity"] == pytest.approx(1.0, abs=1e-6)
    # In training the two vectors of a text differ, by dropout alone.
    objective.train()
    torch.manual_seed(0)
    noisy = objective(data)
    assert objective.summarize(noisy.sums, ())["self_similarity"] < 0.9999
    noisy.loss_sum.backward()
    assert all(p.grad.abs().sum() > 0 for n, p in objective.named_parameters() if "lora_B" in n)
    # Cells in separate forwards give the same, short ones too; a long one, as validation has, is taken in parts.
    objective.eval()
    halves = [
        objective(Batch(**{n: v[part] for n, v in vars(data).items() if isinstance(v, torch.Tensor)})).loss_sum
        for part in (slice(0, 2), slice(2, 4))
    ]
    assert sum(half.item() for half in halves) == pytest.approx(output.loss_sum.item(), rel=1e-5)


def test_dropout_that_would_have_no_effect_is_refused(tmp_path):
    torch.manual_seed(0)
    config = FalconConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    FalconModel(config).save_pretrained(tmp_path / "falcon")
    reader, _ = reader_of(tmp_path / "falcon")
    with pytest.raises(UserError, match="this falcon model has no dropout in its attention; set it to 0"):
        SimCSE(reader, num_together=2, temperature=0.5, attention_dropout=0.3)
    SimCSE(reader, num_together=2, temperature=0.5, attention_dropout=0.0)
    reader, _ = reader_of(save_llama(tmp_path / "llama"))
    reader.llm.config._attn_implementation = "flash_attention_4"
    with pytest.raises(UserError, match=r"flash attention 4 has no dropout; set model\.attention=sdpa"):
        SimCSE(reader, num_together=2, temperature=0.5, attention_dropout=0.3)


@pytest.mark.parametrize("cells", [(0, 0, 1, 1, 2), (0, 1, 1, 1, 2), (0, 0, 0, 1, 1), (0, 1, 2, 2, 2)])
def test_a_short_cell_stands_against_itself_alone(llm, cells):
    reader, _ = reader_of(llm)
    objective = SimCSE(reader, num_together=3, temperature=0.5, attention_dropout=0.0).eval()
    whole = batch((12, 9, 5, 4, 3))
    whole.cells = torch.tensor(cells)
    apart = [objective(rows_of(whole, whole.cells == cell)).loss_sum.item() for cell in sorted(set(cells))]
    assert objective(whole).loss_sum.item() == pytest.approx(sum(apart), rel=1e-5)
    one = rows_of(whole, torch.ones(5, dtype=torch.bool))
    one.cells = torch.zeros(5, dtype=torch.int64)
    parts = [rows_of(one, torch.arange(5) // 3 == part) for part in (0, 1)]
    assert objective(one).loss_sum.item() == pytest.approx(
        sum(objective(part).loss_sum.item() for part in parts), rel=1e-5
    )


def rows_of(data, chosen):
    """The batch of some of a batch's rows."""
    return Batch(**{n: v[chosen] if isinstance(v, torch.Tensor) else v for n, v in vars(data).items()})


@pytest.mark.parametrize("rows", [0, 1, 7])
@pytest.mark.parametrize("rows_of_chunk", [1, 3, 100])
@pytest.mark.parametrize("softcap", [None, 0.7])
def test_tokens_told_in_chunks_are_those_of_the_whole(rows, rows_of_chunk, softcap):
    torch.manual_seed(0)
    linear = nn.Linear(6, 40, bias=softcap is not None, dtype=torch.float64).requires_grad_(False)
    head = OutputHead(linear.weight, linear.bias, softcap=softcap)
    states = torch.randn(rows, 6, dtype=torch.float64, requires_grad=True)
    wanted = torch.randint(0, 40, (rows,))
    wanted[2:3] = -100
    logits = head(states)
    truth = nn.functional.cross_entropy(logits, wanted, reduction="sum")
    truth.backward()
    loss, right, gradient = ToldTokens(head, chunk_elements=40 * rows_of_chunk)(states, wanted)
    assert loss.item() == pytest.approx(truth.item(), rel=1e-6)
    assert right == (logits.argmax(-1) == wanted).sum()
    torch.testing.assert_close(gradient, states.grad, atol=1e-7, rtol=1e-6)
    with torch.no_grad():
        assert ToldTokens(head)(states, wanted)[2] is None
