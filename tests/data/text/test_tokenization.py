import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, dynamic_module_utils

from mtllm_ds.data.text.cutting import encode_documents
from mtllm_ds.data.text.tokenization import TokenizerSpec, load_text_tokenizer
from mtllm_ds.errors import UserError
from tests.fixtures.own_code import give_own_tokenizer
from tests.fixtures.tokenizers import (
    TEXT,
    save_bert_tokenizer,
    save_llama_tokenizer,
    save_m2m100_tokenizer,
    save_nllb_tokenizer,
    save_t5_tokenizer,
    save_xlm_r_tokenizer,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    return {
        "nllb": str(save_nllb_tokenizer(root / "nllb")),
        "llama": str(save_llama_tokenizer(root / "llama")),
        "bert": str(save_bert_tokenizer(root / "bert")),
        "other": str(save_nllb_tokenizer(root / "other", vocab_size=380)),
    }


@pytest.fixture(scope="module")
def nllb(folders):
    return load_text_tokenizer(TokenizerSpec(name=folders["nllb"], side="encoder"))


@pytest.fixture(scope="module")
def llama(folders):
    return load_text_tokenizer(TokenizerSpec(name=folders["llama"], side="llm"))


@pytest.mark.parametrize("text", TEXT)
def test_nllb_ids_are_those_of_transformers(folders, nllb, text):
    for language in ("eng_Latn", "khm_Khmr"):
        hf = AutoTokenizer.from_pretrained(folders["nllb"], src_lang=language)
        assert nllb([text], language) == hf(text)["input_ids"]
        assert nllb([text, TEXT[0]], language) == hf(text, TEXT[0])["input_ids"]


def test_bert_ids_are_those_of_transformers(folders):
    hf = AutoTokenizer.from_pretrained(folders["bert"])
    bert = load_text_tokenizer(TokenizerSpec(name=folders["bert"], side="llm"))
    assert bert.family == "bert"
    assert bert([TEXT[0]], None) == hf(TEXT[0])["input_ids"]
    assert bert([TEXT[0], TEXT[3]], "deu_Latn") == hf(TEXT[0], TEXT[3])["input_ids"]


@pytest.mark.parametrize(("family", "save"), [("t5", save_t5_tokenizer), ("xlm-r", save_xlm_r_tokenizer)])
def test_t5_and_xlm_r_ids_are_those_of_transformers(tmp_path, family, save):
    folder = str(save(tmp_path / family))
    hf = AutoTokenizer.from_pretrained(folder)
    ours = load_text_tokenizer(TokenizerSpec(name=folder, side="encoder"))
    assert ours.family == family
    for text in TEXT:
        assert ours([text], "eng_Latn") == hf(text)["input_ids"]
        assert ours([text, TEXT[1]], None) == hf(text, TEXT[1])["input_ids"]
    assert ours.language_codes == ()


def test_madlad_puts_its_target_tag_in_front(tmp_path):
    folder = str(save_t5_tokenizer(tmp_path / "madlad", extra=("<2en>",)))
    ours = load_text_tokenizer(TokenizerSpec(name=folder, side="encoder"))
    assert ours.family == "madlad"
    plain = load_text_tokenizer(TokenizerSpec(name=folder, side="encoder", family="t5"))
    assert ours([TEXT[0]], "eng_Latn") == [ours._vocab["<2en>"], *plain([TEXT[0]], None)]


def test_m2m100_tags_and_ids_are_those_of_transformers(tmp_path, llama):
    folder = str(save_m2m100_tokenizer(tmp_path / "m2m100"))
    ours = load_text_tokenizer(TokenizerSpec(name=folder, side="encoder", max_length=40))
    assert ours.family == "m2m100"
    hf = AutoTokenizer.from_pretrained(folder)
    for code, iso in (("deu_Latn", "de"), ("khm_Khmr", "km")):
        hf.src_lang = iso
        for text in TEXT:
            assert ours([text], code) == hf(text)["input_ids"]
    with pytest.raises(UserError, match="no tag for language 'kab_Latn'"):
        ours(["x"], "kab_Latn")
    long = " ".join(TEXT)
    [[sample]] = encode_documents((ours, llama), [(long,)], "deu_Latn")  # cut without offsets
    assert sample.is_cut
    assert 20 < len(sample.ids["encoder"]) <= 40
    assert sample.ids["encoder"] == ours(sample.segments, "deu_Latn")


def test_golden_ids(nllb, llama):
    tag, end = nllb._vocab["deu_Latn"], nllb._vocab["</s>"]
    a, b = (tokens.ids for tokens in nllb.tokenize(["die Formel", "Dialog"]))
    assert nllb(["die Formel"], "deu_Latn") == [tag, *a, end]
    assert nllb(["die Formel", "Dialog"], "deu_Latn") == [tag, *a, *b, end]
    assert nllb(["die Formel"], "de") == [tag, *a, end]
    bos = llama._vocab["<bos>"]
    a, b = (tokens.ids for tokens in llama.tokenize(["the formula", "dialog"]))
    assert llama(["the formula"], None) == [bos, *a]
    assert llama(["the formula", "dialog"], "eng_Latn") == [bos, *a, bos, *b]


def test_text_that_spells_a_special_token_stays_text(nllb, llama):
    specials = {nllb._vocab["</s>"], nllb._vocab["deu_Latn"], nllb._vocab["<s>"]}
    assert not specials & set(nllb.tokenize(["of </s> the deu_Latn <s> values"])[0].ids)
    assert llama._vocab["<bos>"] not in llama.tokenize(["a <bos> b"])[0].ids


def test_a_wrong_tag_raises_and_names_the_nearest(nllb):
    with pytest.raises(UserError, match="khm_Khmr"):
        nllb(["x"], "khm_Latn")
    with pytest.raises(UserError, match=r"no tag for language 'fur_Latn'; it knows .*fra_Latn"):
        nllb(["x"], "fur_Latn")
    with pytest.raises(UserError, match="needs a language tag"):
        nllb(["x"], None)


def test_fingerprint_follows_vocabulary_and_template_not_the_path(folders, nllb, tmp_path):
    AutoTokenizer.from_pretrained(folders["nllb"], src_lang="fra_Latn").save_pretrained(tmp_path)
    moved = load_text_tokenizer(TokenizerSpec(name=str(tmp_path), side="encoder"))
    assert moved.fingerprint == nllb.fingerprint
    other = load_text_tokenizer(TokenizerSpec(name=folders["other"], side="encoder"))
    assert other.fingerprint != nllb.fingerprint
    template = load_text_tokenizer(TokenizerSpec(name=folders["nllb"], side="encoder", family="xlm-r"))
    assert template.fingerprint != nllb.fingerprint


def test_bad_specs_are_refused(folders, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_text_tokenizer(TokenizerSpec(name=str(tmp_path / "none"), side="llm"))
    with pytest.raises(UserError, match="family=gpt: unknown family"):
        load_text_tokenizer(TokenizerSpec(name=folders["llama"], side="llm", family="gpt"))
    with pytest.raises(UserError, match="cannot tell the family"):
        load_text_tokenizer(TokenizerSpec(name=folders["llama"], side="encoder"))
    with pytest.raises(UserError, match="max_length=2"):
        TokenizerSpec(name="x", side="llm", max_length=2)


def test_code_of_its_own_runs_only_where_it_is_trusted(llama, tmp_path, monkeypatch):
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    name = str(give_own_tokenizer(save_llama_tokenizer(tmp_path / "llm")))
    with pytest.raises(UserError, match=r"of its own; set model\.llm\.trust_remote_code=true if you trust it$"):
        load_text_tokenizer(TokenizerSpec(name=name, side="llm"))
    own = load_text_tokenizer(TokenizerSpec(name=name, side="llm", trust_remote_code=True))
    assert own([TEXT[0]], None) == llama([TEXT[0]], None)


def test_line_breaks_read_as_blanks_for_nllb(nllb):
    """As SentencePiece's normalization has it, which transformers 5 leaves out; offsets stay those of the text."""
    (folded,), (plain,) = nllb.tokenize(["Title\nthe body\tgoes"]), nllb.tokenize(["Title the body goes"])
    assert folded == plain
    assert nllb.unknown_id not in folded.ids


def test_line_breaks_stay_where_the_tokenizer_knows_them(tmp_path, llama):
    """Llama 2 and Mistral part at spaces too, but spell what they lack in bytes."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "▁a"]
    backend = Tokenizer(
        models.BPE({piece: i for i, piece in enumerate(pieces)}, [("▁", "a")], unk_token="<unk>", byte_fallback=True)
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(tmp_path)
    bytewise = load_text_tokenizer(TokenizerSpec(name=str(tmp_path), side="llm", family="decoder"))
    for tokenizer in (bytewise, llama):
        broken, plain = tokenizer.tokenize(["a\na", "a a"])
        assert broken.ids != plain.ids
    assert backend.token_to_id("<0x0A>") in bytewise.tokenize(["a\na"])[0].ids


def test_the_tiny_llama_reads_line_breaks_as_blanks():
    tiny = load_text_tokenizer(TokenizerSpec(name="assets/llm", side="llm"))
    broken, plain = tiny.tokenize(["a page\nand more", "a page and more"])
    assert broken == plain
