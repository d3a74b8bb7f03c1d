"""The command of the quality benchmark on public models: its plan, where it puts things, and mistakes of its options."""

import sys

import pytest

from benchmarks.quality import quality
from mtllm_ds.errors import UserError


def run(monkeypatch, *options):
    given = ["--budget", "public", "--data", "text", "--output", "nowhere", "--dry-run", *options]
    monkeypatch.setattr(sys, "argv", ["quality", *given])
    return quality.main()


@pytest.mark.parametrize("backbone", ["minilm", "smollm2"])
@pytest.mark.parametrize("task", ["lohelp_modules", "ddtp_topics"])
def test_the_plan_is_printed_with_its_minutes(monkeypatch, capsys, task, backbone):
    assert run(monkeypatch, "--more-text", "other", "--task", task, "--backbones", backbone) == 0
    *steps, last = capsys.readouterr().out.splitlines()
    assert f"{len(steps)} steps, about " in last
    assert any(line.endswith(f" s  {backbone}/eval/mt_encoder-2") for line in steps)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--more-text: stage 1 reads the English of both tasks"),
        (("--more-text", "x", "--backbones", "minilm", "smollm2"), "has sizes for one at a time"),
        (("--more-text", "x", "--backbones", "llama"), "name one of minilm, smollm2"),
        (("--more-text", "x", "--mt-ladder", "x"), "--mt-ladder: the encoder of --budget public has no earlier"),
        (("--more-text", "x", "--headline", "parallel_at_teacher"), "trains on English alone"),
        (("--budget", "cpu", "--more-text", "x"), "--more-text x: has no effect with --budget cpu"),
        (("--more-text", "x", "--headline", "centring"), "goes by language tags"),
    ],
)
def test_mistakes(monkeypatch, options, message):
    with pytest.raises(UserError) as raised:
        run(monkeypatch, *options)
    assert message in str(raised.value)
