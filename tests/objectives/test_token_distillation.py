"""Token distillation against transformers' own models in float64, a sample at a time: readers, layouts, padded and packed rows."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from mtllm_ds.cluster.launch import Cluster
from mtllm_ds.config.sections import ConnectorSettings, EncoderSettings, LLMSettings, LoraSettings
from mtllm_ds.data.shards.blocks import concatenate_blocks
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.shards.tar_shards import read_block
from mtllm_ds.data.shards.targets import TargetSet
from mtllm_ds.data.stream.collate import Collator, Sample
from mtllm_ds.data.text.tokenization import TokenizerSpec
from mtllm_ds.models.connector import build_connector
from mtllm_ds.models.continuation import continuations
from mtllm_ds.models.encoders import load_encoder
from mtllm_ds.models.lm_head import load_output_head
from mtllm_ds.models.loading import load_llm
from mtllm_ds.models.lora import add_lora
from mtllm_ds.models.readers import LLMReader
from mtllm_ds.models.stacked import StackedModel
from mtllm_ds.objectives.token_distillation import TokenDistillation
from mtllm_ds.objectives.token_kl_head import TokenLoss
from mtllm_ds.teachers.cached import CachedNextTokens
from mtllm_ds.teachers.frozen_self import FrozenSelf
from mtllm_ds.teachers.next_tokens import load_next_token_teacher
from mtllm_ds.transfer_sets.teacher_targets import write_targets
from tests.fixtures.dialogues import build, records
from tests.fixtures.models import save_llama, save_mt_model

SAMPLES = 7
ALONE = Cluster(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))
READERS = {"replace": (True, False), "prepend": (True, True), "llm": (False, True)}
"""(an encoder reads, the LLM reads a prompt)"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dialogues")
    save_mt_model(folder / "mt")
    save_llama(folder / "llm")
    specs = {
        side: TokenizerSpec(name=str(folder / name), side=side, max_length=96)
        for side, name in (("encoder", "mt"), ("llm", "llm"))
    }
    build(folder / "shards", records(SAMPLES), specs, student_prompt=True)
    build(folder / "weighted", [r | {"weight": 1 + n} for n, r in enumerate(records(SAMPLES))], specs,
          student_prompt=True, weights=True)  # fmt: skip
    build(folder / "english", [r for r in records(SAMPLES) if r["language"] == "eng_Latn"], {"llm": specs["llm"]})
    return folder


def batch(folder, packed, cells=((0, 1, 2), (3, 4), (5, 6))):
    manifest = Manifest.load(folder)
    block = concatenate_blocks([read_block(manifest, number) for number in range(manifest.num_blocks)])
    collate = Collator(pad_ids={"encoder": 1, "llm": 1}, packing_buckets=2 if packed else 0)
    return collate([[Sample(block, row, row % 2, row) for row in cell] for cell in cells])


def objective(folder, kind, loss, teacher=True, b=0.1):
    """An objective whose LoRA is not zero, unless `b` is."""
    settings = LLMSettings(name=str(folder / "llm"), bidirectional=False)
    llm = add_lora(load_llm(settings, "sdpa", torch.float32), LoraSettings(rank=2, dropout=0.0), seed=0)
    for name, parameter in llm.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=b, generator=torch.Generator().manual_seed(1))
    student = LLMReader(llm)
    if READERS[kind][0]:
        encoder = load_encoder(EncoderSettings(name=str(folder / "mt")), "sdpa", torch.float32)
        connector = build_connector(ConnectorSettings(), encoder.hidden_size, 24, seed=0, dtype=torch.float32)
        student = StackedModel(encoder, connector, llm)
    head = load_output_head(settings, student, torch.float32)
    frozen = FrozenSelf(student) if teacher else None
    return TokenDistillation(student, frozen, head, loss, 2, reads_prompt=READERS[kind][1])


class Eager:
    """The same models in float64, each sample alone: logits by transformers' own LlamaForCausalLM."""

    def __init__(self, folder, told):
        self.reader = told.student.double()
        options = {"dtype": torch.float64, "attn_implementation": "eager"}
        self.teacher = LlamaForCausalLM.from_pretrained(folder / "llm", **options).eval()
        self.student = LlamaForCausalLM.from_pretrained(folder / "llm", **options).eval()
        self.student.model.load_state_dict(self.reader.llm.merge_and_unload().state_dict())
        self.encoder, self.prompt = told.reads

    def rows(self, data, row):
        """Log-probabilities of student and teacher before each response token, and the tokens."""
        ids = data.llm_ids[row][data.llm_mask[row].bool()]
        start = data.host.columns["response_start"][row]
        response = ids[start:]
        read = []
        if self.encoder:
            own = data.encoder_ids[row : row + 1, : int(data.encoder_mask[row].sum())]
            read.append(self.reader.connector(self.reader.encoder(own, torch.ones_like(own)))[0])
        embed = self.student.get_input_embeddings()
        if self.prompt:
            length = data.host.columns["student_prompt_ids"][row]
            read.append(embed(data.extras["student_prompt_ids"][row, :length]))
        before = sum(map(len, read))
        embeds = torch.cat([*read, embed(response)])
        ours = self.student(inputs_embeds=embeds[None]).logits[0, before - 1 : -1].log_softmax(-1)
        theirs = self.teacher(input_ids=ids[None]).logits[0, start - 1 : -1].log_softmax(-1)
        return ours, theirs, response


def truth(folder, told, data, kl_weight, nll_weight):
    told.reads = (isinstance(told.student, StackedModel), told.reads_prompt)
    eager, total, kls, nlls = Eager(folder, told), 0.0, [0.0, 0.0], [0.0, 0.0]
    with torch.no_grad():
        for row in range(len(data)):
            ours, theirs, response = eager.rows(data, row)
            kl = (theirs.exp() * (theirs - ours)).sum()
            nll = -ours.gather(1, response[:, None]).sum()
            weight = data.extras["sample_weight"][row] if "sample_weight" in data.extras else 1.0
            total += float(weight * (kl_weight * kl + nll_weight * nll))
            kls[row % 2] += float(kl)
            nlls[row % 2] += float(nll)
    return total, kls, nlls


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("shards", ["shards", "weighted"])
def test_losses_and_figures_equal_float64(folder, kind, packed, shards):
    told = objective(folder, kind, TokenLoss(kl_weight=0.7, nll_weight=0.3)).eval()
    data = batch(folder / shards, packed)
    output = told(data)
    tokens = sum(data.host.num_tokens["llm"]) - sum(data.host.columns["response_start"])
    assert told.count(data) == tokens == output.sums["count"]
    figures = told.summarize(output.sums, ("deu_Latn", "eng_Latn"))
    expected, kls, nlls = truth(folder, told, data, 0.7, 0.3)
    assert output.loss_sum.item() == pytest.approx(expected, rel=2e-5)
    assert figures["kl"] == pytest.approx(sum(kls) / tokens, rel=2e-5)
    assert figures["nll"] == pytest.approx(sum(nlls) / tokens, rel=2e-5)
    counts = output.sums["language_count"].tolist()
    assert figures["kl/eng_Latn"] == pytest.approx(kls[1] / counts[1], rel=2e-5)
    assert figures["nll/deu_Latn"] == pytest.approx(nlls[0] / counts[0], rel=2e-5)


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_gradients_are_those_of_the_eager_form_whatever_the_divergence(folder, kind, packed):
    data = batch(folder / "shards", packed)
    for loss in (
        {"divergence": "reverse_kl", "temperature": 2.0},
        {"divergence": "jsd", "beta": 0.3, "nll_weight": 0.5},
        {"kl_weight": 0.0, "nll_weight": 2.0},
    ):
        found = []
        for backend in ("auto", "reference"):
            told = objective(folder, kind, TokenLoss(**loss, backend=backend), teacher=loss.get("kl_weight") != 0.0)
            output = told.train()(data)
            output.loss_sum.backward()
            trained = {name: p.grad for name, p in told.named_parameters() if p.requires_grad}
            found.append((output.loss_sum.detach(), trained))
            assert all(("lora" in name or "connector" in name) and grad is not None for name, grad in trained.items())
            assert all(p.grad is None for p in told.parameters() if not p.requires_grad)
        torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_padded_and_packed_give_the_same(folder):
    for kind in READERS:
        told = objective(folder, kind, TokenLoss()).train()
        padded, packed = (told(batch(folder / "shards", is_packed)).loss_sum for is_packed in (False, True))
        torch.testing.assert_close(padded, packed, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_token_kl_is_exactly_zero_while_lora_is_on_the_prompt_that_both_read(folder, packed):
    """Unit truth 9."""
    told = objective(folder, "llm", TokenLoss(), b=0.0).train()
    output = told(batch(folder / "english", packed, ((0, 1), (2,))))
    assert told.count(batch(folder / "english", packed, ((0, 1), (2,)))) > 0
    assert output.loss_sum.item() == 0.0
    output.loss_sum.backward()
    assert all(not p.grad.any() for p in told.parameters() if p.requires_grad)


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("buckets", [0, 2], ids=["padded", "packed"])
@pytest.mark.parametrize("loss", [{}, {"kl_weight": 0.0, "nll_weight": 1.0}, {"clip": 0.05}], ids=["kl", "nll", "clip"])
def test_a_forward_without_samples_runs_the_same_layers_and_weighs_nothing(folder, kind, buckets, loss):
    told = objective(folder, kind, TokenLoss(**loss), teacher=loss.get("kl_weight") != 0.0)
    empty = Collator(pad_ids={"encoder": 1, "llm": 1}, packing_buckets=buckets)([])
    assert told.count(empty) == 0
    for mode in (told.eval(), told.train()):
        output = mode(empty)
        assert output.sums.keys() == told.empty_sums().keys()
        assert {name: tuple(value.shape) for name, value in output.sums.items()} == {
            name: tuple(value.shape) for name, value in told.empty_sums().items()
        }
        assert output.loss_sum.item() == 0.0
    output.loss_sum.backward()
    assert all(p.grad is not None and not p.grad.any() for p in told.parameters() if p.requires_grad)
    assert told.summarize(told.empty_sums(), ("a", "b")) == {"loss": 0.0}


def test_rows_that_are_not_valid_weigh_nothing(folder):
    told = objective(folder, "replace", TokenLoss(nll_weight=0.5)).train()
    whole = batch(folder / "shards", False)
    part = replace(whole, valid=torch.arange(SAMPLES) < 4, host=None)
    part.host = replace(part.host, columns=whole.host.columns)
    few = batch(folder / "shards", False, ((0, 1, 2), (3,)))
    assert told.count(part) == told.count(few)
    torch.testing.assert_close(told(part).loss_sum, told(few).loss_sum, rtol=1e-5, atol=1e-6)


def test_a_clip_bounds_what_an_entry_adds(folder):
    data = batch(folder / "shards", False)
    for divergence in ("forward_kl", "reverse_kl", "jsd"):
        plain, loose, tight = (
            objective(folder, "replace", TokenLoss(divergence=divergence, clip=clip, nll_weight=0.5)).train()
            for clip in (None, 1e9, 0.01)
        )
        outputs = [told(data) for told in (plain, loose, tight)]
        for output in outputs:
            output.loss_sum.backward()
        torch.testing.assert_close(outputs[1].loss_sum, outputs[0].loss_sum, rtol=1e-5, atol=1e-6)
        for one, other in zip(plain.parameters(), loose.parameters(), strict=True):
            if one.requires_grad:
                torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-5)
        assert outputs[2].loss_sum < outputs[0].loss_sum


def test_every_token_is_told_from_the_one_before_it(folder):
    """Places, spelt out: what `before` points at is the token that stands before each of the response's."""
    for packed in (False, True):
        data = batch(folder / "shards", packed)
        plan = continuations(data, encoder=False, prompt=True)
        flat = torch.cat([data.extras["student_prompt_ids"].flatten(), data.llm_ids.flatten()])
        read = flat[plan.ids].flatten()
        at = 0
        for row in range(len(data)):
            length = data.host.columns["student_prompt_ids"][row]
            prompt = data.extras["student_prompt_ids"][row, :length].tolist()
            response = data.llm_ids[row][data.llm_mask[row].bool()].tolist()[data.host.columns["response_start"][row] :]
            places = plan.before[at : at + len(response)]
            assert read[places].tolist() == [*prompt, *response][length - 1 : -1]
            assert data.llm_ids.flatten()[plan.teacher_before[at : at + len(response)] + 1].tolist() == response
            assert plan.owners[at : at + len(response)].tolist() == [row] * len(response)
            at += len(response)
        assert at == len(plan.before)


def told_beforehand(folder, name, num_kept, packed, temperature=1.0, stored="float32"):
    """`batch` with what the plain LLM told of the shards before, read back from its target set."""
    manifest, target = Manifest.load(folder / name), f"top{num_kept}_{temperature}_{stored}"
    teacher = load_next_token_teacher(
        str(folder / "llm"), manifest, torch.device("cpu"), torch.float32, num_kept=num_kept, temperature=temperature
    )
    write_targets(manifest, target, teacher, ALONE, batch_size=3, stored_dtype=stored)
    told = TargetSet(manifest, target, teacher.identity)
    blocks = [read_block(manifest, number) | told.read(number) for number in range(manifest.num_blocks)]
    collate = Collator(pad_ids={"encoder": 1, "llm": 1}, packing_buckets=2 if packed else 0)
    whole = concatenate_blocks(blocks)
    return collate([[Sample(whole, row, row % 2, row) for row in cell] for cell in ((0, 1, 2), (3, 4), (5, 6))])


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("kind", READERS)
def test_a_teacher_that_told_all_tokens_before_gives_the_losses_of_the_live_one(folder, kind, packed):
    for own in (TokenLoss(), TokenLoss(kl_weight=0.7, nll_weight=0.3, temperature=2.0)):
        live, cached = (objective(folder, kind, own) for _ in range(2))
        cached.teacher = CachedNextTokens()
        data = told_beforehand(folder, "weighted", 512, packed, own.temperature)
        for told in (live.eval(), cached.eval()):
            told.figures = told.summarize(told(data).sums, ("deu_Latn", "eng_Latn"))
        wanted = {name: value for name, value in live.figures.items() if name in cached.figures}
        assert cached.figures == pytest.approx(wanted, rel=2e-5)
        assert ("kl" in cached.figures) == (own.temperature == 1.0)
        one, other = live.train()(data), cached.train()(data)
        torch.testing.assert_close(other.loss_sum, one.loss_sum, rtol=2e-5, atol=0)
        for output in (one, other):
            output.loss_sum.backward()
        for left, right in zip(live.parameters(), cached.parameters(), strict=True):
            if left.requires_grad:
                torch.testing.assert_close(right.grad, left.grad, rtol=1e-3, atol=1e-5)


def test_all_other_tokens_are_one(folder):
    """By hand in float64, each sample alone; float16 costs a little, and never the sum of 1."""
    kept = 4
    told = objective(folder, "replace", TokenLoss()).eval()
    data = told_beforehand(folder, "shards", kept, False)
    halves = told_beforehand(folder, "shards", kept, False, stored="float16")
    live = told(data).loss_sum.item()
    told.teacher = CachedNextTokens()
    found, rough = (told(batch).loss_sum.item() for batch in (data, halves))
    told.reads = (True, False)
    eager, expected = Eager(folder, told), 0.0
    with torch.no_grad():
        for row in range(len(data)):
            ours, theirs, _ = eager.rows(data, row)
            ids = theirs.topk(kept).indices
            p, q = (
                torch.cat([x.gather(-1, ids), x.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)], -1)
                for x in (theirs, ours)
            )
            expected += float((p.exp() * (p - q)).sum())
    assert found == pytest.approx(expected, rel=2e-5)
    assert rough == pytest.approx(expected, rel=2e-3)
    assert 0 < found < live


@pytest.mark.parametrize("buckets", [0, 2], ids=["padded", "packed"])
@pytest.mark.parametrize("loss", [TokenLoss(), TokenLoss(nll_weight=1.0, temperature=2.0)])
def test_a_forward_without_samples_asks_no_cache(folder, buckets, loss):
    told = objective(folder, "replace", loss)
    told.teacher = CachedNextTokens()
    for mode in (told.eval(), told.train()):
        output = mode(Collator(pad_ids={"encoder": 1, "llm": 1}, packing_buckets=buckets)([]))
        assert output.loss_sum.item() == 0.0
        assert output.sums.keys() == told.empty_sums().keys()
    output.loss_sum.backward()
    assert all(p.grad is not None and not p.grad.any() for p in told.parameters() if p.requires_grad)
