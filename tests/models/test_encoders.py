"""Encoders: alone they give the states of the whole model, and their own tokenizers give the ids of transformers."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from mtllm_ds.config.sections import ConnectorSettings, EncoderSettings
from mtllm_ds.data.text.tokenization import TAG, TokenizerSpec, load_text_tokenizer
from mtllm_ds.errors import UserError
from mtllm_ds.models.encoders import FAMILIES, check_encoder, load_encoder
from tests.fixtures.models import save_llama
from tests.fixtures.tokenizers import TEXT
from tests.models.encoder_families import ENCODERS

OWN_GTE = """
from transformers import GteConfig, GteModel
class NewConfig(GteConfig):
    model_type = "new"
class NewModel(GteModel):
    config_class = NewConfig
    def __init__(self, config, add_pooling_layer=False):
        super().__init__(config, add_pooling_layer=add_pooling_layer)
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A function that gives the folder of a family, made once."""
    root, made = tmp_path_factory.mktemp("encoders"), {}

    def folder(title):
        if title not in made:
            made[title] = ENCODERS[title].save(root / f"{len(made)}")
        return made[title]

    return folder


@pytest.mark.parametrize("title", ENCODERS)
def test_the_encoder_alone_gives_the_states_of_the_whole_model(saved, title):
    family = ENCODERS[title]
    whole = family.whole()
    encoder = load_encoder(EncoderSettings(name=str(saved(title))), "sdpa", torch.float32).train()
    ids, mask = torch.randint(4, 100, (2, 7)), torch.ones(2, 7, dtype=torch.int64)
    mask[1, 4:] = 0
    with torch.no_grad():
        truth = family.encoder_of(whole)(input_ids=ids, attention_mask=mask).last_hidden_state
    states = encoder(ids, mask)
    torch.testing.assert_close(states[mask.bool()], truth[mask.bool()], atol=2e-6, rtol=1e-5)
    assert states.shape[-1] == encoder.hidden_size
    assert not states.requires_grad
    assert not any(part in name for name, _ in encoder.named_parameters() for part in ("decoder", "vision", "pooler"))


@pytest.mark.parametrize("title", ENCODERS)
def test_every_encoder_tells_the_states_of_its_layers(saved, title):
    """The last are the final ones; those before it are what its layers hand on, seen by hooks."""
    family, seen = ENCODERS[title], []
    whole = family.encoder_of(family.whole())
    layers = max((module for module in whole.modules() if isinstance(module, torch.nn.ModuleList)), key=len)
    for layer in layers:
        layer.register_forward_hook(lambda module, args, out: seen.append(out if torch.is_tensor(out) else out[0]))
    ids, mask = torch.randint(4, 100, (2, 7)), torch.ones(2, 7, dtype=torch.int64)
    with torch.no_grad():
        final = whole(input_ids=ids, attention_mask=mask).last_hidden_state
    encoder = load_encoder(
        EncoderSettings(name=str(saved(title))), "sdpa", torch.float32, ConnectorSettings(layers=(1, len(layers)))
    )
    first, last = encoder(ids, mask)
    for found, truth in ((first, seen[0]), (last, final)):
        truth = truth.double()
        centred = truth - truth.mean(-1, keepdim=True)
        truth = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        torch.testing.assert_close(found.double(), truth, atol=1e-5, rtol=1e-4)


def test_layers_that_an_encoder_has_not_are_refused(saved):
    settings = EncoderSettings(name=str(saved("NLLB")))
    assert load_encoder(settings, "sdpa", torch.float32, ConnectorSettings(layers="all")).layers == (0, 1, 2)
    with pytest.raises(
        UserError, match=r"model\.connector\.layers=\[1, 3\]: there is no layer 3 .* from 0 \(embeddings\) to 2"
    ):
        check_encoder(settings, ConnectorSettings(layers=(1, 3)))


@pytest.mark.parametrize("title", ENCODERS)
def test_ids_are_those_of_its_own_tokenizer(saved, title):
    family, folder = ENCODERS[title], str(saved(title))
    ours = load_text_tokenizer(TokenizerSpec(name=folder, side="encoder"))
    assert ours.family == family.tokenizer_family
    around = " ".join((*ours.template.prefix, "A", *ours.template.suffix))
    assert around == family.template
    theirs = AutoTokenizer.from_pretrained(folder)
    if TAG in ours.template.prefix:
        theirs.src_lang = "de" if ours.family == "m2m100" else "deu_Latn"
    for text in TEXT:
        assert ours([text], "deu_Latn") == theirs(text)["input_ids"]
        assert ours([text, TEXT[1]], "deu_Latn") == theirs(text, TEXT[1])["input_ids"]


def test_every_family_is_tested():
    tested = {family.config().model_type for family in ENCODERS.values()}
    assert tested | {"new"} == set(FAMILIES)


def test_gte_with_code_of_its_own_is_read_where_it_is_trusted(tmp_path, monkeypatch):
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    family = ENCODERS["GTE multilingual"]
    folder = family.save(tmp_path / "gte")
    truth = load_encoder(EncoderSettings(name=str(folder)), "sdpa", torch.float32)
    save_file(family.whole().base_model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "modeling.py").write_text(OWN_GTE)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "new", "architectures": ["NewModel"]}
    config["auto_map"] = {"AutoConfig": "modeling.NewConfig", "AutoModel": "modeling.NewModel"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"set model\.encoder\.trust_remote_code=true if you trust it$"):
        load_encoder(EncoderSettings(name=str(folder)), "sdpa", torch.float32)
    own = load_encoder(EncoderSettings(name=str(folder), trust_remote_code=True), "sdpa", torch.float32)
    ids, mask = torch.randint(4, 100, (2, 7)), torch.ones(2, 7, dtype=torch.int64)
    assert torch.equal(own(ids, mask), truth(ids, mask))


def test_sonar_is_published_without_a_decoder(saved):
    assert not any("decoder" in name for name in load_file(saved("SONAR text") / "model.safetensors"))


def test_a_model_without_an_encoder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"llama model has no encoder.*m2m_100"):
        load_encoder(EncoderSettings(name=str(save_llama(tmp_path))), "sdpa", torch.float32)
