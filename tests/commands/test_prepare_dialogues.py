"""`prepare dialogues` on the command line, and what `prepare show` prints of a dialogue."""

import pytest
import torch

from mtllm_ds.commands import prepare
from mtllm_ds.data.columns import check_columns
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.shards.tar_shards import read_block
from mtllm_ds.data.stream.stream import EvalStream
from mtllm_ds.errors import UserError
from tests.fixtures.dialogues import TEMPLATE, records, write
from tests.fixtures.tokenizers import save_llama_tokenizer, save_nllb_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dialogues")
    save_nllb_tokenizer(folder / "mt")
    save_llama_tokenizer(folder / "llm")
    (folder / "chat.jinja").write_text(TEMPLATE)
    write(folder / "dialogues.jsonl", records(12))
    return folder


def dialogues(folder, output, *more):
    arguments = ["--input", folder / "dialogues.jsonl", "--num-workers", 1, "--output", folder / output, *more]
    prepare.main(["dialogues", *map(str, arguments)])
    return Manifest.load(folder / output)


def test_dialogues_are_prepared_and_shown_with_their_borders(folder, capsys):
    sides = ["--encoder", folder / "mt", "--llm", folder / "llm"]
    template = ["--chat-template", folder / "chat.jinja", "--system-prompt", "be brief"]
    manifest = dialogues(folder, "out", *sides, *template, "--student-prompt")
    assert manifest.num_samples == 12
    assert (manifest.chat.template, manifest.chat.system_prompt) == (TEMPLATE, "be brief")
    capsys.readouterr()
    prepare.main(["show", str(folder / "out"), "--samples", "1"])
    shown = capsys.readouterr().out.splitlines()
    lines = {line.split()[0]: line for line in shown if line.startswith("  ") and "border" not in line}
    assert lines.keys() == {"encoder", "student", "teacher", "response"}
    assert "<bos>|" in lines["teacher"]
    assert "|<eos>  (" in lines["response"]
    borders = [line for line in shown if "border" in line]
    assert [line.split()[1] for line in borders] == ["student:", "teacher:"]
    assert borders[0].split("->")[1] == borders[1].split("->")[1]


def test_shards_tell_where_a_sample_comes_from_and_training_reads_past_it(folder, tmp_path, capsys):
    own = [
        record | {"history": {"made_of": {"answers": {"by": f"ö{n}"}}, "ratio": n}}
        for n, record in enumerate(records(12))
    ]
    del own[3]["history"], own[3]["id"]
    own[4]["history"] = "by hand"
    write(tmp_path / "dialogues.jsonl", own)
    sides = ["--llm", str(folder / "llm"), "--chat-template", str(folder / "chat.jinja"), "--num-workers", "1"]
    common = ["dialogues", "--input", str(tmp_path / "dialogues.jsonl"), *sides, "--block-samples", "4"]
    for name, more in (("kept", ["--keep-records"]), ("bare", [])):
        prepare.main([*common, "--output", str(tmp_path / name), *more])
    kept, bare = Manifest.load(tmp_path / "kept"), Manifest.load(tmp_path / "bare")
    (tmp_path / "dialogues.jsonl").unlink()
    capsys.readouterr()
    shown = ""
    for block in range(kept.num_blocks):
        prepare.main(["show", str(tmp_path / "kept"), "--block", str(block), "--samples", "4"])
        shown += capsys.readouterr().out
    for number, record in enumerate(own):
        assert f"dialogues.jsonl, line {number + 1}" in shown
        if number not in (3, 4):
            assert f"  id: {record['id']}\n" in shown
            assert f'  answers: {{"by": "ö{number}"}}\n  pair: {{"ratio": {number}}}\n' in shown
    assert '  pair: "by hand"\n' in shown
    for with_records, without in zip(EvalStream(kept, batch_size=5), EvalStream(bare, batch_size=5), strict=True):
        assert with_records.extras.keys() == without.extras.keys()
        assert torch.equal(with_records.llm_ids, without.llm_ids)
    columns = sorted(read_block(kept, 0))
    assert columns == sorted([*read_block(bare, 0), "record"])
    check_columns(columns, ["response_start", "student_prompt_ids"], where="x", reader="y")


def test_options_without_effect_or_sense_are_refused(folder):
    llm = ["--llm", folder / "llm"]
    template = ["--chat-template", folder / "chat.jinja"]
    for more, words in (
        (["--encoder", folder / "mt"], "--llm is missing: an LLM answers"),
        ([*llm, *template, "--student-prompt"], "--student-prompt: has no effect without --encoder"),
        ([*llm, *template, "--split-share", "0.3"], "--split-share=0.3: has no effect without --plain"),
        ([*llm, *template, "--plain"], "takes neither a chat template nor a system prompt"),
        ([*llm, "--chat-template", folder / "none.jinja"], "none.jinja: cannot be read"),
        (llm, "has no chat template; give --chat-template FILE"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            dialogues(folder, "refused", *more)
        assert "\n" not in str(caught.value)
