"""An export gives the vectors of the training process, says what it is, and refuses what does not fit."""

import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from rich.console import Console

from mtllm_ds import MTLLM
from mtllm_ds.checkpoint.export import export_run
from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.cluster.zero import gathered
from mtllm_ds.data.stream.stream import EvalStream
from mtllm_ds.errors import UserError
from mtllm_ds.models.pooling import pool
from mtllm_ds.training.assemble import open_run
from tests.distributed.ranks import ranks
from tests.fixtures.models import LLM_WIDTH, save_llama
from tests.fixtures.runs import make_run, settings_of


def train_and_encode(recipe, overrides):
    """On a rank: train, then the validation set's vectors (student, teacher) from the model in memory."""
    trainer = open_run(settings_of(recipe, **overrides), join_cluster(), False, Console(quiet=True))
    trainer.run()
    stack = trainer.objective.student.eval()
    vectors = []
    with gathered(stack.parameters()), torch.no_grad():
        for batch in EvalStream(recipe.parent / "validation", batch_size=8):
            student = stack.states(batch.encoder_ids, batch.encoder_mask)
            teacher = trainer.objective.teacher.read(batch.llm_ids, batch.llm_mask)
            vectors.append((pool(student, batch.encoder_mask, "mean"), pool(teacher, batch.llm_mask, "mean")))
    trainer.close()
    return [torch.cat(side).numpy() for side in zip(*vectors, strict=True)]


@pytest.fixture(scope="module", params=["llama", "bert"])
def trained(request, tmp_path_factory):
    """(export, texts, vectors of the training process) for a decoder and an encoder as LLM."""
    folder = tmp_path_factory.mktemp(request.param)
    recipe = make_run(folder, request.param)
    vectors = ranks(2).run(train_and_encode, recipe, {"model__connector__type": "mlp"})[0]
    export_run(folder / "run", folder / "export")
    texts = [json.loads(line)["text"] for line in (folder / "validation.jsonl").read_text().splitlines()]
    return folder / "export", texts, vectors


def test_vectors_are_those_of_the_training_process(trained):
    export, texts, (student, teacher) = trained
    model = MTLLM.from_pretrained(export)
    found = model.encode(texts, lang="eng_Latn", batch_size=5)
    assert found.shape == (len(texts), LLM_WIDTH)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.from_numpy(student), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.encode_with_llm(texts), torch.from_numpy(teacher), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, torch.from_numpy(teacher), atol=1e-3)


def test_one_reading_gives_both_vectors(trained):
    export, texts, _ = trained
    model = MTLLM.from_pretrained(export)
    truth = model.encode(texts, "deu_Latn", batch_size=5), model.encode_with_encoder(texts, "deu_Latn", batch_size=5)
    num_read = []
    model.reader.encoder.register_forward_hook(lambda encoder, given, states: num_read.append(len(states)))
    vectors, means = model.encode_both(texts, "deu_Latn", batch_size=5)
    assert torch.equal(vectors, truth[0])
    assert torch.equal(means, truth[1])
    assert sum(num_read) == len(texts)


def test_order_and_batches_change_nothing(trained):
    export, texts, _ = trained
    model = MTLLM.from_pretrained(export)
    together = model.encode(texts, lang="deu_Latn")
    for number in (0, 7):
        torch.testing.assert_close(
            model.encode([texts[number]], lang="deu_Latn")[0], together[number], atol=1e-5, rtol=1e-5
        )
    assert not torch.allclose(model.encode(texts, lang="eng_Latn"), together, atol=1e-3)
    assert model.encode([], lang="deu_Latn").shape == (0, LLM_WIDTH)


def test_long_texts_are_cut_at_the_limit(trained):
    export, texts, _ = trained
    model = MTLLM.from_pretrained(export)
    assert torch.isfinite(model.encode([" ".join(texts)], lang="eng_Latn")).all()
    assert torch.isfinite(model.encode_with_llm([" ".join(texts)])).all()


def test_a_wrong_tag_names_the_nearest(trained):
    model = MTLLM.from_pretrained(trained[0])
    with pytest.raises(UserError, match="ell_Grek"):
        model.encode(["x"], lang="ell_Latn")
    with pytest.raises(UserError, match="put it in a list"):
        model.encode("x", lang="deu_Latn")


def test_the_export_is_readable_by_others_and_names_licences(trained):
    export, _, _ = trained
    card = (export / "README.md").read_text()
    assert "Licences" in card
    assert "eval_fvu" in card
    adapter = json.loads((export / "adapter" / "adapter_config.json").read_text())
    assert adapter["peft_type"] == "LORA"
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(export / "tokenizers" / "encoder").get_vocab()
    assert not list(export.rglob("*.bin"))
    assert not list(export.rglob("*.pt"))


def test_what_does_not_fit_is_refused(trained, tmp_path):
    export, _, _ = trained
    with pytest.raises(UserError, match=r"neither a run \(with checkpoints/\) nor an export"):
        MTLLM.from_pretrained(tmp_path)
    other = save_llama(tmp_path / "other", seed=9)
    with pytest.raises(UserError, match="not the model it was trained on"):
        MTLLM.from_pretrained(export, llm=str(other))
    newer = tmp_path / "newer"
    shutil.copytree(export, newer)
    config = json.loads((newer / "config.json").read_text())
    (newer / "config.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(UserError, match="format 99"):
        MTLLM.from_pretrained(newer)
    moved = tmp_path / "moved"
    shutil.copytree(export, moved)
    config["bases"]["llm"]["name"] = "/nowhere/llm"
    (moved / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="pass llm="):
        MTLLM.from_pretrained(moved)
    assert MTLLM.from_pretrained(moved, llm=str(export.parent / "llm")).encode(["x"], lang="eng_Latn").shape[0] == 1


def test_student_and_teacher_in_two_threads_do_not_meet(trained):
    export, texts, _ = trained
    model = MTLLM.from_pretrained(export)
    student, teacher = model.encode(texts, lang="eng_Latn"), model.encode_with_llm(texts)
    asked = [
        lambda: model.encode(texts, lang="eng_Latn", batch_size=2),
        lambda: model.encode_with_llm(texts, batch_size=2),
    ]
    with ThreadPoolExecutor(4) as pool:
        found = [future.result() for future in [pool.submit(asked[turn % 2]) for turn in range(12)]]
    for turn, vectors in enumerate(found):
        torch.testing.assert_close(vectors, (student, teacher)[turn % 2], atol=1e-5, rtol=1e-5)
    copied = pickle.loads(pickle.dumps(model))
    torch.testing.assert_close(copied.encode(texts, lang="eng_Latn"), student)
