"""A run of dialogues, and its export, writes after what it was trained to read: its template, its layout, its end of a turn."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mtllm_ds import MTLLM
from mtllm_ds.checkpoint.export import export_run
from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.data.text.chat import DialogueTokenizer
from mtllm_ds.models.lm_head import load_output_head
from mtllm_ds.models.readers import token_embeddings
from mtllm_ds.training.runs import run_seeds
from mtllm_ds.transfer_sets.merged_llm import write_merged
from tests.distributed.ranks import ranks
from tests.fixtures.dialogue_runs import make_dialogue_run
from tests.fixtures.dialogues import CHAT
from tests.fixtures.runs import settings_of

NEW, TEXT = 6, "Wählen Sie die Zellen"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_dialogue_run(tmp_path_factory.mktemp("speaking"))


def train(settings):
    """On a rank of a pool, whose ports are no business of other tests."""
    assert run_seeds(settings, join_cluster(), False) == 0


@torch.no_grad()
def by_hand(model, sides):
    """Greedy, everything read anew for each token."""
    reader, llm, read = model.reader, model._tokenizers["llm"], []
    if "encoder" in sides:
        ids = torch.tensor([model._tokenizers["encoder"]([TEXT], "deu_Latn")])
        read.append(reader.embeddings(ids, torch.ones_like(ids)))
    if "llm" in sides:
        ids = DialogueTokenizer(llm, CHAT).prompt_ids([{"role": "user", "content": TEXT}])
        read.append(token_embeddings(reader.llm, torch.tensor([ids])))
    head = load_output_head(model._speakers._llm, reader, torch.float32)
    rows, written = torch.cat(read, 1), []
    while len(written) < NEW:
        token = int(head(reader.llm.base_model.model(inputs_embeds=rows).last_hidden_state[0, -1]).argmax())
        if token == 1:
            break
        written.append(token)
        rows = torch.cat([rows, token_embeddings(reader.llm, torch.tensor([[token]]))], 1)
    return llm.decode(written)


@pytest.mark.parametrize(
    ("name", "sides", "overrides"),
    [
        ("replace", ("encoder",), {}),
        ("prepend", ("encoder", "llm"), {"objective__layout": "prepend"}),
        ("llm", ("llm",), {"model__reader": "llm"}),
    ],
)
def test_run_and_export_write_behind_what_was_read_in_training(recipe, name, sides, overrides):
    folder = recipe.parent / name
    settings = settings_of(
        recipe,
        run__output_dir=str(folder),
        run__max_steps="2",
        training__deepspeed="ds_configs/zero2.json",
        **overrides,
    )
    ranks(1).run(train, settings)
    export_run(folder, recipe.parent / f"{name}_export")
    for place in (folder, recipe.parent / f"{name}_export"):
        model = MTLLM.from_pretrained(place)
        expected = by_hand(model, sides)
        assert model.generate([TEXT], "deu_Latn", max_new_tokens=NEW) == [expected]
        asked = [{"role": "user", "content": TEXT}]
        assert model.generate([asked], "deu_Latn", max_new_tokens=NEW) == [expected]
        assert model.generate([asked, TEXT], "deu_Latn", max_new_tokens=NEW) == [expected] * 2


def test_the_merged_folder_of_a_run_writes_the_same_by_transformers_alone(recipe):
    trained, folder = recipe.parent / "llm", recipe.parent / "merged"
    if not trained.exists():
        settings = settings_of(recipe, run__output_dir=str(trained), run__max_steps="2", model__reader="llm")
        ranks(1).run(train, settings)
    write_merged(trained, folder)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    asked = [{"role": "user", "content": TEXT}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    written = model.generate(**ids, max_new_tokens=NEW)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(written, skip_special_tokens=True) == by_hand(MTLLM.from_pretrained(trained), ("llm",))
