import json
from types import SimpleNamespace

import pytest

from mtllm_ds.data.shards.tar_shards import read_block
from mtllm_ds.data.text.tokenization import load_text_tokenizer
from mtllm_ds.data.writing.builder import build_shards
from mtllm_ds.data.writing.documents import read_documents
from mtllm_ds.data.writing.settings import ShardSettings
from mtllm_ds.data.writing.sources import Document, InputFile
from mtllm_ds.errors import UserError
from mtllm_ds.training.students import _start_texts

ROWS = [
    {"text": "Die Tabelle enthält Zahlen.", "text_en": "The table holds numbers.", "label": 0},
    {"text": "GIMP", "text_en": "GIMP", "label": 1},
    {"text": "Drücken Sie die Taste. " * 60, "text_en": "Press the key. " * 90, "label": 2},
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def settings_of(file, specs, **more) -> ShardSettings:
    labels = ("0", "1", "2", "3", "4")
    source = InputFile(
        path=str(file), language="deu_Latn", llm_text_field="text_en", label_field="label", labels=labels
    )
    return ShardSettings(inputs=(source,), **specs, **more)


def test_the_encoder_reads_the_translation_and_the_llm_its_original(file, specs, tmp_path):
    encoder, llm = (load_text_tokenizer(specs[side]) for side in ("encoder", "llm"))
    manifest = build_shards(settings_of(file, specs), tmp_path / "out")
    columns = read_block(manifest, 0)
    read = {int(columns["label"][i]): i for i in range(len(ROWS))}
    for row in ROWS[:2]:
        at = read[row["label"]]
        assert columns["encoder_ids"][at].tolist() == encoder([row["text"]], "deu_Latn")
        assert columns["llm_ids"][at].tolist() == llm([row["text_en"]], "eng_Latn")
    at = read[2]  # each side is cut where it is full
    assert columns["encoder_ids"][at].tolist()[:-1] == encoder([ROWS[2]["text"]], "deu_Latn")[:127]
    assert len(columns["llm_ids"][at]) <= 128
    whole = llm([ROWS[2]["text_en"]], "eng_Latn")
    assert columns["llm_ids"][at].tolist()[:100] == whole[:100]
    counts = manifest.statistics["deu_Latn"]
    assert (counts["cut"], counts["translations"]) == (1, 2)
    short = sum(len(row["text_en"].encode()) for row in ROWS[:2])
    assert short < counts["llm_text_bytes"] < short + len(ROWS[2]["text_en"].encode())


def test_documents_keep_their_order_and_equal_texts_are_cut_together(specs):
    encoder, llm = (load_text_tokenizer(specs[side]) for side in ("encoder", "llm"))
    documents = [Document(("eins zwei",), "deu_Latn", llm_text="one two"), Document(("drei",), "deu_Latn")]
    samples = read_documents((encoder, llm), [*documents, *documents[::-1]], "deu_Latn")
    assert [len(pieces) for pieces in samples] == [1, 1, 1, 1]
    assert [pieces[0].segments for pieces in samples] == [("eins zwei",), ("drei",), ("drei",), ("eins zwei",)]
    assert samples[1][0].ids["llm"] == llm(["drei"], "deu_Latn")


def test_a_forbidden_original_keeps_its_translation_out(file, specs, tmp_path):
    from mtllm_ds.data.writing.filters import normalized_hash

    listed = tmp_path / "exclude.txt"
    listed.write_text(normalized_hash("The table holds numbers.") + "\n", encoding="utf-8")
    manifest = build_shards(settings_of(file, specs, exclusion_list=str(listed)), tmp_path / "out")
    assert manifest.statistics["deu_Latn"]["excluded"] == 1
    assert manifest.num_samples == 2


@pytest.mark.parametrize("more", [{"token_pairs": True}, {"long_documents": "split"}])
def test_what_needs_one_text_is_refused(file, specs, more):
    with pytest.raises(UserError, match="needs one text for both sides"):
        settings_of(file, specs, **more)


def test_fields_that_do_not_fit_are_refused(file):
    with pytest.raises(UserError, match="leave out one of the two fields"):
        InputFile(path=str(file), language="deu_Latn", second_text_field="a", llm_text_field="b")
    with pytest.raises(UserError, match="reads the field 'text' anyway"):
        InputFile(path=str(file), language="deu_Latn", llm_text_field="text")


def test_an_original_that_is_no_text_is_told_with_its_field(file, specs, tmp_path):
    with file.open("a", encoding="utf-8") as lines:
        lines.write('{"text": "vier", "text_en": 4, "label": 0}\n')
    with pytest.raises(UserError, match=r"rows\.jsonl, line 4: the text in 'text_en' is not a string but int"):
        build_shards(settings_of(file, specs), tmp_path / "out", num_workers=1)


def test_translations_of_one_original_are_no_duplicates_of_each_other(file, specs, tmp_path):
    rows = [("eins", "one"), ("eins", "one"), ("eins", "a"), ("ein", "one")]
    file.write_text("".join(json.dumps({"text": t, "text_en": e, "label": 0}) + "\n" for t, e in rows))
    manifest = build_shards(settings_of(file, specs, deduplicate=True), tmp_path / "out")
    assert (manifest.num_samples, manifest.statistics["deu_Latn"]["duplicate"]) == (3, 1)


def test_a_connector_starts_from_text_that_both_sides_read(file, specs, tmp_path):
    english = tmp_path / "english.jsonl"
    english.write_text(json.dumps({"text": "some words", "text_en": "some words", "label": 0}) + "\n")
    translated = InputFile(path=str(file), language="deu_Latn", llm_text_field="text_en")
    own = InputFile(path=str(english), language="eng_Latn", llm_text_field="text_en")
    llm = load_text_tokenizer(specs["llm"])
    connector, data = SimpleNamespace(init_documents=64), SimpleNamespace(on_error="fail", max_skipped_share=0.0)

    def texts(*inputs):
        manifest = build_shards(ShardSettings(inputs=inputs, **specs), tmp_path / f"{len(inputs)}")
        settings = SimpleNamespace(data=data, model=SimpleNamespace(connector=connector))
        plan = SimpleNamespace(train=manifest, settings=settings, tokenizers={"llm": llm})
        return _start_texts(plan, SimpleNamespace(rank=0, world_size=1))

    assert texts(translated, own) == [("some words", "eng_Latn")]
    with pytest.raises(UserError, match=r"every language of data\.train holds translations"):
        texts(translated)
