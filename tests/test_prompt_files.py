"""A file of prompts: two ranks write the rows that one writes, in the order of the prompts."""

import json

import pytest

from mtllm_ds import MTLLM
from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.data.text.prompt_records import read_prompts
from mtllm_ds.inference.prompt_files import PromptFile
from mtllm_ds.transfer_sets.sdrrl.stages import Stage
from tests.distributed.ranks import RankError, ranks
from tests.fixtures.exports import make_export
from tests.fixtures.models import save_llama, save_mt_model

TEXTS = ["Print it", "A chart", "Select the cells that hold the formula", "Close", "The dialog sets the options."]


def write(export, prompts, output, spoil=None):
    """On each rank; returns the ids that it answered itself. `spoil` changes the stage of rank 0."""
    answered = []
    speaker = MTLLM.from_pretrained(export).speaker(plain=False)
    file = PromptFile(
        speaker, read_prompts(prompts, "deu_Latn"), seed=1, max_new_tokens=5, options={"do_sample": True, "top_p": 0.9}
    )
    stage = Stage(output, "answers", {})
    add = stage.add
    stage.add = lambda rows: add(rows := list(rows)) or answered.extend(row["id"] for row in rows)
    if spoil is not None and join_cluster().is_main:
        spoil(stage)
    file.write(stage, join_cluster(), batch_size=2, progress=lambda done, total: None)
    return answered


def without_room(stage):
    stage.path.mkdir()  # a file cannot take its name


def without_sight(stage):
    stage.begun = dict


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("prompts")
    bases = {"encoder": save_mt_model(tmp_path / "mt"), "llm": save_llama(tmp_path / "llm")}
    return make_export(tmp_path, bases=bases, bidirectional=False)


def test_ranks_share_the_prompts(export, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    alone, together = tmp_path / "alone", tmp_path / "together"
    ranks(1).run(write, export, str(tmp_path / "prompts.txt"), alone)
    shares = ranks(2).run(write, export, str(tmp_path / "prompts.txt"), together)
    rows = [json.loads(line) for line in (together / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows == [json.loads(line) for line in (alone / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["prompt"] for row in rows] == TEXTS
    assert sorted(shares[0] + shares[1]) == [row["id"] for row in rows]
    assert all(shares)


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (
            without_room,
            r"its answers cannot be written \(Is a directory\); make room or mend its rights, and start again",
        ),
        (without_sight, r"5 rows of answers that other ranks wrote are not seen by this one; choose a folder"),
    ],
)
def test_what_rank_0_alone_cannot_finish_is_told_and_leaves_no_rank_waiting(export, tmp_path, spoil, line):
    (tmp_path / "prompts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    arguments = (export, str(tmp_path / "prompts.txt"), tmp_path / "out")
    with pytest.raises(RankError, match=line) as told:
        ranks(2).run(write, *arguments, spoil)
    assert [error[0] for error in told.value.errors] == ["UserError", "PeerFailedError"]
    if spoil is without_room:
        (tmp_path / "out/answers.jsonl").rmdir()
    ranks(2).run(write, *arguments)
    rows = (tmp_path / "out/answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(row)["prompt"] for row in rows] == TEXTS
