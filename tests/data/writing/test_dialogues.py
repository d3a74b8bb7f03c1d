"""Shards of dialogues: both readers carry the same response, nothing is cut in silence, what cannot be read is told or counted."""

import shutil

import pytest

from mtllm_ds.data.shards.blocks import concatenate_blocks
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.shards.tar_shards import read_block, verify_shards
from mtllm_ds.data.stream.collate import Collator, Sample
from mtllm_ds.data.text.chat import ChatSettings, DialogueTokenizer
from mtllm_ds.data.text.tokenization import load_text_tokenizer
from mtllm_ds.data.writing.dialogue_records import dialogue_input
from mtllm_ds.data.writing.dialogues import DialogueSettings, build_dialogue_shards
from mtllm_ds.data.writing.merge import merge_data_sets
from mtllm_ds.errors import UserError
from tests.fixtures.dialogues import CHAT, TEMPLATE, build, records, write


def columns_of(manifest):
    return concatenate_blocks([read_block(manifest, block) for block in range(manifest.num_blocks)])


def message(text):
    return [{"role": "user", "content": text}]


def test_student_and_teacher_carry_the_same_response_after_their_own_prompts(tmp_path, specs):
    found = records(40, weight=2.5, pair_type="q_t a_en")
    manifest = build(tmp_path / "out", found, specs, student_prompt=True, weights=True)
    verify_shards(manifest)
    encoder, llm = (load_text_tokenizer(specs[side]) for side in ("encoder", "llm"))
    chat = DialogueTokenizer(llm, CHAT)
    expected = {
        (
            tuple(encoder([record["prompt"]], record["language"])),
            tuple(chat.prompt_ids(message(record["prompt"]))),
            tuple(chat.prompt_ids(message(record.get("teacher_prompt", record["prompt"])))),
            tuple(chat.response_ids(record["response"])),
        )
        for record in found
    }
    columns = columns_of(manifest)
    stored = set()
    for row in range(len(found)):
        ids, start = columns["llm_ids"][row].tolist(), int(columns["response_start"][row])
        prompts = (columns[name][row].tolist() for name in ("encoder_ids", "student_prompt_ids"))
        stored.add((*map(tuple, prompts), tuple(ids[:start]), tuple(ids[start:])))
    assert stored == expected
    assert set(columns["sample_weight"].tolist()) == {2.5}
    assert (manifest.chat.template, manifest.chat.end_id) == (TEMPLATE, chat.end_id)
    counts = manifest.statistics["deu_Latn"]
    # Not what a connector may start from: the LLM reads another text than the encoder.
    assert counts["translations"] == counts["samples"]
    assert "translations" not in manifest.statistics["eng_Latn"]
    assert counts["pairs q_t a_en"] == counts["samples"] == sum(record["language"] == "deu_Latn" for record in found)


def test_several_turns_are_segments_for_the_encoder_and_messages_for_the_llm(tmp_path, specs):
    turns = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "the cells"},
        {"role": "assistant", "content": "a table"},
        {"role": "user", "content": "the chart"},
    ]
    manifest = build(tmp_path / "out", [{"language": "eng_Latn", "messages": turns, "response": "a legend"}], specs)
    columns = columns_of(manifest)
    encoder, llm = (load_text_tokenizer(specs[side]) for side in ("encoder", "llm"))
    assert columns["encoder_ids"][0].tolist() == encoder(["the cells", "a table", "the chart"], "eng_Latn")
    chat = DialogueTokenizer(llm, CHAT)
    assert columns["llm_ids"][0].tolist() == [*chat.prompt_ids(turns), *chat.response_ids("a legend")]
    assert "student_prompt_ids" not in columns


def test_an_llm_alone_needs_no_encoder_and_stores_its_prompts(tmp_path, specs):
    columns = columns_of(build(tmp_path / "out", records(5), {"llm": specs["llm"]}))
    assert {"student_prompt_ids", "response_start", "llm_ids"} <= columns.keys()
    assert columns["encoder_ids"].lengths.sum() == 0


def test_prompts_are_never_cut_and_responses_are_at_the_same_token_for_both(tmp_path, specs):
    long, short = "cells " * 200, "the chart"
    found = [
        {"language": "eng_Latn", "prompt": short, "teacher_prompt": short * 3, "response": long},
        {"language": "eng_Latn", "prompt": long, "teacher_prompt": short, "response": short},
        {"language": "eng_Latn", "prompt": short, "teacher_prompt": long, "response": short},
    ]
    manifest = build(tmp_path / "out", found, specs, student_prompt=True)
    columns = columns_of(manifest)
    counts = manifest.statistics["eng_Latn"]
    assert (counts["samples"], counts["cut"], counts["long_prompt"]) == (1, 1, 2)
    start, ids = int(columns["response_start"][0]), columns["llm_ids"][0]
    assert len(ids) == 128
    assert ids[-1] != manifest.chat.end_id
    assert len(columns["student_prompt_ids"][0]) < start


def test_empty_texts_and_texts_that_spell_special_tokens_are_left_out_and_counted(tmp_path, specs):
    found = [
        {"language": "eng_Latn", "prompt": "", "response": "a"},
        {"language": "eng_Latn", "prompt": "a", "teacher_prompt": " ", "response": "a"},
        {"language": "eng_Latn", "prompt": "a", "response": "  "},
        {"language": "eng_Latn", "prompt": "what is <eos>?", "response": "a"},
        {"language": "eng_Latn", "prompt": "what is it?", "response": "it is <eos>"},
    ]
    manifest = build(tmp_path / "out", found, specs)
    counts = manifest.statistics["eng_Latn"]
    assert (counts["documents"], counts["samples"], counts["empty"], counts["special_token"]) == (5, 1, 3, 1)
    # In a response it is text: the one end is that of the turn.
    assert columns_of(manifest)["llm_ids"][0].tolist().count(manifest.chat.end_id) == 1


def test_a_plain_text_is_parted_at_a_blank_and_spells_itself(tmp_path, specs):
    texts = ["Select the cells that hold the formula", "word", "the chart " * 100]
    plain = ChatSettings(plain=True)
    found = [{"language": "eng_Latn", "text": text, "page": number} for number, text in enumerate(texts)]
    manifest = build(tmp_path / "out", found, specs, chat=plain, split_share=0.4)
    columns = columns_of(manifest)
    llm = load_text_tokenizer(specs["llm"])
    whole = llm([texts[0]], None)
    (row,) = (row for row in range(len(columns["llm_ids"])) if columns["llm_ids"][row].tolist() == whole)
    assert llm.decode(whole[: int(columns["response_start"][row])]) == "Select the cells"
    assert all(int(columns["response_start"][row]) < len(columns["llm_ids"][row]) <= 128 for row in range(len(texts)))
    assert manifest.num_samples == 3
    assert manifest.chat.template is None


def test_a_batch_knows_on_the_host_where_responses_begin(tmp_path, specs):
    manifest = build(tmp_path / "out", records(4), {"llm": specs["llm"]})
    block = read_block(manifest, 0)
    batch = Collator(pad_ids={"llm": 1})([[Sample(block, 0, 0, 0)], [Sample(block, 1, 0, 1)]])
    assert batch.host.columns == {
        "response_start": tuple(block["response_start"][:2].tolist()),
        "student_prompt_ids": tuple(block["student_prompt_ids"].lengths[:2].tolist()),
    }
    assert batch.host.cells == (0, 1)
    assert Collator(pad_ids={"llm": 1})([]).host.columns == {}


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"response": "a"}, "holds both of 'prompt' and 'messages', or neither"),
        (
            {"prompt": "a", "messages": message("a"), "response": "a"},
            "holds both of 'prompt' and 'messages', or neither",
        ),
        ({"prompt": "a"}, "no field 'response'"),
        ({"prompt": "a", "response": 7}, "the text in 'response' is not a string"),
        ({"prompt": "a", "respons": "a"}, "no field 'respons' is known"),
        ({"prompt": "a", "response": "a", "weight": 2}, "give --weights"),
        ({"messages": [{"role": "boss", "content": "a"}], "response": "a"}, "with roles system, user, assistant"),
        ({"messages": [{"role": "assistant", "content": "a"}], "response": "a"}, "end with the assistant"),
        ({"text": "a b"}, "give --plain, or a prompt and a response"),
    ],
)
def test_a_record_that_cannot_be_used_is_one_line_or_counted(tmp_path, specs, record, words):
    found = [*records(2), {"language": "eng_Latn", **record}]
    with pytest.raises(UserError, match=words) as caught:
        build(tmp_path / "out", found, specs)
    assert "out.jsonl, line 3" in str(caught.value)
    manifest = build(tmp_path / "other", found, specs, on_error="skip")
    assert manifest.num_samples == 2


def test_an_input_may_name_the_language_of_its_records(tmp_path, specs):
    bare = [{name: value for name, value in record.items() if name != "language"} for record in records(3)]
    file = write(tmp_path / "bare.jsonl", bare)
    settings = DialogueSettings(inputs=(dialogue_input(str(file), "deu_Latn"),), chat=CHAT, **specs)
    assert build_dialogue_shards(settings, tmp_path / "out", num_workers=1).languages == ("deu_Latn",)
    with pytest.raises(UserError, match="no field 'language'; add it, or name the input as CODE=FILE"):
        build(tmp_path / "other", bare, specs)
    settings = DialogueSettings(
        inputs=(dialogue_input(str(write(tmp_path / "eng.jsonl", records(1))), "deu_Latn"),), chat=CHAT, **specs
    )
    with pytest.raises(UserError, match="its language is eng_Latn, and the input's is deu_Latn"):
        build_dialogue_shards(settings, tmp_path / "third", num_workers=1)


def test_bad_weights_and_settings_are_one_line(tmp_path, specs):
    for weight in (0, -1, "2", True, float("inf")):
        with pytest.raises(UserError, match="no number above 0"):
            build(tmp_path / "out", records(1, weight=weight), specs, weights=True)
    with pytest.raises(UserError, match="neither a chat template nor a system prompt"):
        build(tmp_path / "out", records(1), specs, chat=ChatSettings(plain=True, system_prompt="a"))
    with pytest.raises(UserError, match="choose a share between 0 and 1"):
        build(tmp_path / "out", records(1), specs, split_share=1.0)


def test_parquet_gives_the_same_samples(tmp_path, specs):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    found = records(9)
    lines = build(tmp_path / "lines", found, specs)
    parquet.write_table(
        pyarrow.Table.from_pylist([{"teacher_prompt": None, **row} for row in found]), tmp_path / "d.parquet"
    )
    settings = DialogueSettings(
        inputs=(dialogue_input(str(tmp_path / "d.parquet")),), chat=CHAT, block_samples=8, **specs
    )
    table = build_dialogue_shards(settings, tmp_path / "table", num_workers=1)
    assert [shard.sha256 for shard in table.shards] == [shard.sha256 for shard in lines.shards]


def test_data_sets_of_one_template_are_merged_and_of_two_are_not(tmp_path, specs):
    (tmp_path / "all").mkdir()
    build(tmp_path / "all" / "a", records(9), specs)
    build(tmp_path / "all" / "b", records(9, salt=1), specs)
    merged = merge_data_sets(tmp_path / "all")
    assert merged.chat == Manifest.load(tmp_path / "all" / "a").chat
    assert merged.num_samples == 18
    shutil.rmtree(tmp_path / "all" / "b")
    build(
        tmp_path / "all" / "b",
        records(9, salt=2),
        specs,
        chat=ChatSettings(template=TEMPLATE, system_prompt="be brief"),
    )
    with pytest.raises(UserError, match="another template or system prompt"):
        merge_data_sets(tmp_path / "all")


def test_it_is_finished_once_and_refused_for_other_settings(tmp_path, specs):
    first = build(tmp_path / "out", records(9), specs)
    before = (tmp_path / "out" / "manifest.json").stat().st_mtime_ns
    assert build(tmp_path / "out", records(9), specs).hash == first.hash
    assert (tmp_path / "out" / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="made with other settings or inputs"):
        build(tmp_path / "out", records(9), specs, student_prompt=True)
