"""`prepare dialogues` on the command line, and what `prepare show` prints of a dialogue."""

import pytest

from mtllm_ds.commands import prepare
from mtllm_ds.data.shards.manifest import Manifest
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
