"""Instructions from files: each once, none of the exclusion list."""

import json

import pytest
import torch

from mtllm_ds.cluster.launch import Cluster
from mtllm_ds.data.writing.filters import normalized_hash
from mtllm_ds.errors import UserError
from mtllm_ds.models.writer import Response
from mtllm_ds.transfer_sets.sdrrl.chat_model import Generation
from mtllm_ds.transfer_sets.sdrrl.instructions import (
    SelfInstructions,
    Sieve,
    instruction_id,
    read_instructions,
    write_self_instructions,
)
from mtllm_ds.transfer_sets.sdrrl.stages import Stage

TEXTS = ["Open a file.", "open a FILE!", "Close it", "a test item", "Save it", ""]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps({"q": text}) + "\n" for text in TEXTS))
    return path


def test_each_once_and_none_of_the_excluded(file):
    sieve = Sieve(frozenset([bytes.fromhex(normalized_hash("A test: item"))]))
    rows, counts = read_instructions([str(file)], "q", None, sieve)
    assert [row["prompt"] for row in rows] == ["Open a file.", "Close it", "Save it"]
    assert counts == {"kept": 3, "duplicate": 1, "excluded": 1, "empty": 1}
    assert rows[1] == {"id": instruction_id("Close it"), "prompt": "Close it", "by": {"file": f"{file}, line 3"}}


def test_a_number_takes_the_first_across_files(file):
    rows, _ = read_instructions([str(file), str(file)], "q", 2, Sieve(frozenset()))
    assert [row["prompt"] for row in rows] == ["Open a file.", "Close it"]


def test_nothing_left_is_one_line(tmp_path):
    path = tmp_path / "empty.jsonl"
    path.write_text('{"q": "..."}\n{"q": ""}\n')
    sieve = Sieve(frozenset([bytes.fromhex(normalized_hash("..."))]))
    with pytest.raises(UserError, match=r"no instruction can be used \(.*'excluded': 1.*\); give others"):
        read_instructions([str(path)], "q", None, sieve)


class StandIn:
    """A writer whose sample number n is row n of a table; an empty row never ends."""

    made_by = {"model": "stand-in"}  # noqa: RUF012
    table = ("how do I cook", "How do I cook?", "", "tell me more", "a test item", "write a poem", "sing", "and so on")

    def __init__(self):
        self.chat = self
        self.asked = []

    def user_header_ids(self):
        return [7, 8]

    def write(self, jobs, seed, generation):
        self.asked += [(job.id, job.prompt_ids) for job in jobs]
        return [self.response(int(job.id.removeprefix("self-"))) for job in jobs]

    def response(self, number):
        text = self.table[number % len(self.table)]
        return Response(text + (f" {number}" if number >= len(self.table) else ""), [number], is_cut=not text)


def written(folder, count, writer, batch_size=2):
    generation = Generation(max_new_tokens=9)
    return write_self_instructions(
        Stage(folder, "instructions", {}), SelfInstructions(count=count, generation=generation, batch_size=batch_size),
        writer, Cluster(0, 1, 0, torch.device("cpu")), seed=0, check=None, progress=lambda done, total: None,
        sieve=lambda: Sieve(frozenset([bytes.fromhex(normalized_hash("a test item"))])),
    )  # fmt: skip


def test_the_first_samples_that_can_be_used_are_taken(tmp_path):
    writer = StandIn()
    rows, counts = written(tmp_path, 4, writer)
    assert [row["prompt"] for row in rows] == ["how do I cook", "tell me more", "write a poem", "sing"]
    assert counts == {"kept": 4, "duplicate": 1, "empty": 1, "excluded": 1}
    assert {row["by"]["model"] for row in rows} == {"stand-in"}
    assert [row["by"]["sample"] for row in rows] == [f"self-{number:07d}" for number in (0, 3, 5, 6)]
    assert all(ids == [7, 8] for _, ids in writer.asked)


def test_what_was_sampled_is_not_sampled_again(tmp_path):
    first = StandIn()
    rows, _ = written(tmp_path, 4, first)
    again = StandIn()
    assert written(tmp_path, 4, again)[0] == rows
    assert again.asked == []
    assert len({name for name, _ in first.asked}) == len(first.asked)


def test_batches_change_nothing_but_how_many_are_tried(tmp_path):
    found = [written(tmp_path / str(size), 5, StandIn(), batch_size=size)[0] for size in (1, 3, 8)]
    assert found[0] == found[1] == found[2]


def test_answers_of_people_come_with_their_instructions(tmp_path):
    path = tmp_path / "asked.jsonl"
    rows = [{"q": "Open it.", "a": "Done."}, {"q": "open it", "a": "Twice."}, {"q": "Close it.", "a": ""}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, counts = read_instructions([str(path)], "q", None, Sieve(frozenset()), "a")
    assert [(row["prompt"], row["gold"]) for row in found] == [("Open it.", "Done."), ("Close it.", "")]
    assert counts == {"kept": 2, "duplicate": 1}
