"""A file of prompts: two ranks write the rows that one writes, in the order of the prompts."""

import json

from mtllm_ds import MTLLM
from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.data.text.prompt_records import read_prompts
from mtllm_ds.inference.prompt_files import PromptFile
from mtllm_ds.transfer_sets.sdrrl.stages import Stage
from tests.distributed.ranks import ranks
from tests.fixtures.exports import make_export
from tests.fixtures.models import save_llama, save_mt_model

TEXTS = ["Print it", "A chart", "Select the cells that hold the formula", "Close", "The dialog sets the options."]


def write(export, prompts, output):
    """On each rank; returns the ids that it answered itself."""
    answered = []
    speaker = MTLLM.from_pretrained(export).speaker(plain=False)
    file = PromptFile(
        speaker, read_prompts(prompts, "deu_Latn"), seed=1, max_new_tokens=5, options={"do_sample": True, "top_p": 0.9}
    )
    stage = Stage(output, "answers", {})
    add = stage.add
    stage.add = lambda rows: add(rows := list(rows)) or answered.extend(row["id"] for row in rows)
    file.write(stage, join_cluster(), batch_size=2, progress=lambda done, total: None)
    return answered


def test_ranks_share_the_prompts(tmp_path):
    bases = {"encoder": save_mt_model(tmp_path / "mt"), "llm": save_llama(tmp_path / "llm")}
    export = make_export(tmp_path, bases=bases, bidirectional=False)
    (tmp_path / "prompts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    alone, together = tmp_path / "alone", tmp_path / "together"
    ranks(1).run(write, export, str(tmp_path / "prompts.txt"), alone)
    shares = ranks(2).run(write, export, str(tmp_path / "prompts.txt"), together)
    rows = [json.loads(line) for line in (together / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows == [json.loads(line) for line in (alone / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["prompt"] for row in rows] == TEXTS
    assert sorted(shares[0] + shares[1]) == [row["id"] for row in rows]
    assert all(shares)
