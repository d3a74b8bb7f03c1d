"""Every family of LLM: loaded tiny it looks the way it was asked to, or is refused by name, and the probe knows which."""

import dataclasses

import pytest
import torch

from mtllm_ds.config.sections import LLMSettings, ModelSettings
from mtllm_ds.errors import UserError
from mtllm_ds.models.checks import check_llm
from mtllm_ds.models.loading import load_config, load_llm
from mtllm_ds.models.text_models import embedding_size, probe_llm, state_size
from tests.models.families import LLMS
from tests.models.families_table import PAGE, page, row_of
from tests.models.measuring import TEXT, load, measure, states


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A function that gives the folder of a family, made once."""
    root, made = tmp_path_factory.mktemp("families"), {}

    def folder(title):
        if title not in made:
            made[title] = LLMS[title].save(root / f"{len(made)}")
        return made[title]

    return folder


@pytest.fixture(scope="module")
def measured(saved):
    """A function that gives what was measured of a family, once."""
    found = {}

    def of(title):
        if title not in found:
            found[title] = measure(LLMS[title], saved(title))
        return found[title]

    return of


def is_encoder(title):
    return LLMS[title].note.startswith("an encoder")


def config_of(folder):
    return load_config(str(folder), None, False, "model.llm.name")


@pytest.mark.parametrize("title", LLMS)
def test_it_looks_the_way_it_was_asked_to(measured, title):
    found = measured(title)
    assert found.looks_both_ways == (not LLMS[title].refused)
    assert found.ignores_padding
    assert not found.has_own_dropout
    assert embedding_size(found.model) == found.model.get_input_embeddings().weight.shape[1]
    assert states(found.model, [TEXT]).shape[-1] == state_size(found.model.config)


@pytest.mark.parametrize("title", LLMS)
def test_the_probe_finds_what_is_measured(saved, measured, title):
    found, refused = measured(title), LLMS[title].refused
    probed = probe_llm(LLMSettings(name=str(saved(title)), bidirectional=not refused), config_of(saved(title)))
    assert not probed.failure
    assert dataclasses.replace(probed, one_way=()) == dataclasses.replace(
        probed,
        model_class=type(found.model).__name__,
        sees_end=found.looks_both_ways,
        ignores_padding=found.ignores_padding,
        packs=found.packs,
        takes_embeddings=found.takes_embeddings,
        drops_attention=found.takes_attention_dropout,
        one_way=(),
    )
    assert probed.both_ways == (not refused)


@pytest.mark.parametrize("title", LLMS)
def test_8_bits_are_refused_before_loading_where_they_do_not_hold(saved, measured, title):
    name = str(saved(title))
    settings = {"name": name, "bidirectional": not LLMS[title].refused, "quantization": "int8"}
    model = ModelSettings(llm=settings, reader="llm")
    if measured(title).takes_8_bits:
        check_llm(model, config_of(name), packed=False)
        return
    with pytest.raises(
        UserError,
        match=r"^model\.llm\.quantization=int8: this .* model holds matrices of its layers in .* set it to null$",
    ):
        check_llm(model, config_of(name), packed=False)
    with pytest.raises(
        UserError,
        match=r"^model\.llm\.quantization=int8: this .* model holds matrices of its layers in .* set it to null$",
    ):
        load_llm(LLMSettings(**settings), "sdpa", torch.float32)


@pytest.mark.parametrize("title", [title for title in LLMS if LLMS[title].refused])
def test_both_ways_is_refused_by_name_where_it_is_untrue(saved, title):
    name = str(saved(title))
    with pytest.raises(UserError, match=LLMS[title].refused) as caught:
        load_llm(LLMSettings(name=name, bidirectional=True), "sdpa", torch.float32)
    assert str(caught.value).startswith(f"model.llm.bidirectional=true: {name} is a ")
    assert str(caught.value).endswith("set model.llm.bidirectional=false, or name another model")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("title", [title for title in LLMS if not is_encoder(title)])
def test_left_as_it_is_it_gives_the_states_of_the_whole_model(saved, title):
    model, whole = load(saved(title), bidirectional=False), LLMS[title].whole()
    ids, mask = torch.tensor([[*TEXT, 3, 4], [*TEXT, 1, 1]]), torch.ones(2, 7, dtype=torch.int64)
    mask[1, 5:] = 0
    with torch.no_grad():
        truth = whole(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
        ours = model(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(ours[mask.bool()], truth[mask.bool()], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("title", [title for title in LLMS if is_encoder(title)])
def test_an_encoder_cannot_be_causal(saved, title):
    with pytest.raises(UserError, match="always bidirectional; set it to true"):
        load_llm(LLMSettings(name=str(saved(title)), bidirectional=False), "sdpa", torch.float32)


def settings_for(folder, **model):
    return ModelSettings(encoder={"name": "someone/never_read"}, llm={"name": str(folder)}, **model)


def test_what_the_reader_asks_of_an_llm_is_checked_before_it_is_loaded(saved):
    folder = saved("Gemma 4 E2B, E4B")
    with pytest.raises(UserError, match=r"model\.reader=stacked: .*layers look up ids of their own"):
        check_llm(settings_for(folder), config_of(folder), packed=False)
    assert check_llm(settings_for(folder, reader="llm"), config_of(folder), packed=False).both_ways
    folder = saved("BLOOM")
    with pytest.raises(
        UserError, match=r"data\.llm_tokens_per_cell: packing would change the states of this bloom model"
    ):
        check_llm(settings_for(folder), config_of(folder), packed=True)
    with pytest.raises(UserError, match=r"model\.attention=sdpa: transformers has none for a bloom model"):
        check_llm(settings_for(folder, attention="sdpa"), config_of(folder), packed=False)
    assert check_llm(settings_for(folder, reader="encoder"), config_of(folder), packed=True) is None


def test_the_page_of_families_is_what_was_measured(measured):
    expected = page([row_of(family, measured(title)) for title, family in LLMS.items()])
    assert PAGE.read_text(encoding="utf-8") == expected, "python -m tests.models.families_table writes it anew"
