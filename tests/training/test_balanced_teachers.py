"""Balanced teachers through the loop: ranks, resumes, where teachers lie, and every setting that does not fit, in one line."""

import json
import re
import shutil

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForMaskedLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from mtllm_ds.checkpoint.store import read_state
from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.data.shards.manifest import Manifest
from mtllm_ds.data.stream.stream import EvalStream
from mtllm_ds.errors import UserError
from mtllm_ds.preflight.plan import check_run, describe_plan
from mtllm_ds.training.assemble import open_run
from mtllm_ds.training.runs import run_seeds
from tests.distributed.ranks import PARTITIONED, RankError, ranks
from tests.fixtures.damage import damage_block
from tests.fixtures.hub import hub_at, push
from tests.fixtures.masked_runs import SOURCES, build_language_shards, make_masked_run
from tests.fixtures.models import save_masked_lm
from tests.fixtures.own_code import give_own_masked_model, give_own_model
from tests.fixtures.runs import learnt, losses_of, rows_of, settings_of
from tests.fixtures.tokenizers import save_bert_tokenizer


def train(recipe, overrides, resume=False):
    """On a rank of a pool."""
    return run_seeds(settings_of(recipe, **overrides), join_cluster(), resume)


def run_on(world_size, recipe, name, resume=False, **overrides):
    overrides |= {"run__output_dir": str(recipe.parent / name)}
    overrides.setdefault("run__validate_at_start", "true")
    assert ranks(world_size).run(train, recipe, overrides, resume) == [0] * world_size
    return settings_of(recipe, **overrides)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_masked_run(tmp_path_factory.mktemp("balanced"))


@pytest.fixture(scope="module")
def alone(recipe):
    return run_on(1, recipe, "alone")


def same_rows(one, other):
    for a, b in zip(rows_of(one), rows_of(other), strict=True):
        figures = {name for name in a if "loss" in name or "nll" in name or "kl" in name or "accuracy" in name}
        assert {name: b[name] for name in figures} == pytest.approx(
            {name: a[name] for name in figures}, rel=2e-5, abs=1e-7
        )


def test_one_and_two_ranks_agree_with_one_teacher_on_the_device_and_under_zero_3(recipe, alone):
    same_rows(alone, run_on(2, recipe, "two", objective__teachers_on_device=1))
    shared = {"objective__shard_teachers": "true", "objective__teachers_on_device": 1}
    same_rows(alone, run_on(2, recipe, "partitioned", training__deepspeed=PARTITIONED, **shared))


def first_teachers_of_steps(recipe, overrides):
    """On a rank: whether the teacher that each step asks first was on its way before the step began."""
    trainer = open_run(settings_of(recipe, **overrides), join_cluster(), False, Console(quiet=True))
    bank, found, is_first = trainer.objective._bank, [], [False]
    take, teacher = trainer._take_step, bank.teacher

    def taking(step, data):
        is_first[0] = True
        return take(step, data)

    def asked(language):
        if is_first[0]:
            found.append(language in bank.resident)
        is_first[0] = False
        return teacher(language)

    trainer._take_step, bank.teacher = taking, asked
    try:
        assert trainer.run()
    finally:
        trainer.close()
    return found


def test_a_teacher_is_fetched_across_the_border_of_a_step(recipe, tmp_path):
    chosen = {"objective__teachers_on_device": 2, "run__output_dir": str(tmp_path), "data__validation": "null"}
    for found in ranks(2).run(first_teachers_of_steps, recipe, chosen | {"run__max_steps": 6}):
        assert found == [False, True, True, True, True, True]


PRETRAINED = {"model__llm__from_scratch": "false", "model__llm__config": "null", "run__max_steps": 2}
LORA = {"model__trainable": "lora", "model__lora__rank": 2, "model__lora__dropout": 0}


@pytest.mark.parametrize(("ties", "trainable"), [(True, {}), (False, LORA)])
def test_pretrained_students_agree_under_zero_3(recipe, tmp_path, ties, trainable):
    student = save_masked_lm(
        tmp_path / "student", seed=9, tokenizer=recipe.parent / "tokenizer", tie_word_embeddings=ties
    )
    chosen = {**PRETRAINED, **trainable, "model__llm__name": student}
    one = run_on(1, recipe, f"one_{tmp_path.name}", **chosen)
    same_rows(one, run_on(2, recipe, f"two_{tmp_path.name}", training__deepspeed=PARTITIONED, **chosen))
    same_rows(one, run_on(2, recipe, f"zero2_{tmp_path.name}", training__deepspeed="zero2", **chosen))


def test_a_run_goes_on_with_the_same_teachers_only(recipe, tmp_path):
    teacher = save_masked_lm(tmp_path / "teacher", seed=20, tokenizer=recipe.parent / "tokenizer")
    chosen = {"objective__teacher_of__deu_Latn": teacher, "run__max_steps": 2}
    run_on(1, recipe, "taught", **chosen)
    shutil.rmtree(teacher)
    save_masked_lm(teacher, seed=21, tokenizer=recipe.parent / "tokenizer")
    with pytest.raises(
        RankError, match=r"objective\.teacher_of\.deu_Latn=.* holds other weights than the run was started with"
    ):
        run_on(1, recipe, "taught", resume=True, **chosen)


def train_on_hub(recipe, hub, overrides, resume):
    """On a rank of a pool."""
    with hub_at(hub):
        return train(recipe, overrides, resume)


def test_a_run_goes_on_with_the_commit_of_a_teacher_that_it_began_with(recipe, alone, tmp_path):
    hub, run = tmp_path / "hub", tmp_path / "run"
    overrides = {"objective__teacher_of__deu_Latn": "someone/deu", "run__output_dir": str(run)}
    push(hub, "someone/deu", recipe.parent / "teacher_deu_Latn", "a" * 40)
    assert ranks(1).run(train_on_hub, recipe, hub, overrides, False) == [0]
    shutil.rmtree(run / "checkpoints" / "step_00000004")
    other = save_masked_lm(tmp_path / "other", seed=20, tokenizer=recipe.parent / "tokenizer")
    push(hub, "someone/deu", other, "b" * 40)
    assert ranks(1).run(train_on_hub, recipe, hub, overrides, True) == [0]
    assert losses_of(settings_of(recipe, **overrides)) == pytest.approx(losses_of(alone), rel=2e-5)
    state = read_state(run / "checkpoints" / "step_00000004")
    assert state.settings["objective"]["teacher_of"]["deu_Latn"]["revision"] == "a" * 40
    base = state.bases["teacher_of.deu_Latn"]
    assert (base["fingerprint"], base["revision"], base["weights"][:7]) == (f"hub:{'a' * 40}", "a" * 40, "sha256:")


def test_a_resumed_run_masks_as_one_that_was_not_stopped(recipe, alone):
    run_on(2, recipe, "resumed", run__max_steps=4)
    shutil.rmtree(recipe.parent / "resumed" / "checkpoints" / "step_00000004")
    run_on(1, recipe, "resumed", resume=True, run__max_steps=4)
    assert losses_of(alone) == pytest.approx(
        losses_of(settings_of(recipe, run__output_dir=recipe.parent / "resumed")), rel=2e-5
    )


def test_validation_reports_what_each_teacher_knows(alone):
    last = [row for row in rows_of(alone) if "eval_nll" in row][-1]
    for code in ("eng_Latn", "deu_Latn", "fra_Latn"):
        assert last[f"eval_teacher_nll/{code}"] > 0
        assert last[f"eval_nll/{code}"] > 0
    assert {"eval_kl", "eval_accuracy", "eval_loss"} <= last.keys()
    validations = [row for row in rows_of(alone) if "eval_nll" in row]
    assert [row["step"] for row in validations] == [0, 2, 4]
    assert len({row["eval_teacher_nll"] for row in validations}) == 1, (
        "a teacher never learns, and validation masks alike"
    )
    assert validations[0]["eval_nll"] > validations[-1]["eval_nll"]


def test_validation_before_the_first_step_changes_no_step_and_is_not_made_again(recipe, alone, tmp_path):
    without = run_on(1, recipe, "later", run__validate_at_start="false")
    assert losses_of(without) == losses_of(alone)
    assert [learnt(row) for row in rows_of(alone) if row["step"]] == [learnt(row) for row in rows_of(without)]
    copy = shutil.copytree(alone.run.output_dir, tmp_path / "copy")
    shutil.rmtree(copy / "checkpoints" / "step_00000004")
    goes_on = run_on(1, recipe, copy, resume=True)
    assert [row["step"] for row in rows_of(goes_on) if "eval_nll" in row] == [0, 2, 4]
    # Killed before its first checkpoint it begins anew, and so does its log.
    shutil.rmtree(copy / "checkpoints")
    again = run_on(1, recipe, copy)
    assert [row["step"] for row in rows_of(again) if "eval_nll" in row] == [0, 2, 4]
    with pytest.raises(
        UserError, match=r"run\.validate_at_start=true: has no effect without data\.validation; remove it"
    ):
        settings_of(recipe, run__validate_at_start="true", data__validation="null")


def test_one_language_alone_without_teachers(recipe):
    settings = run_on(1, recipe, "monolingual", objective__teacher_of="null", objective__temperature=1.0)
    assert losses_of(settings)
    assert not any("kl" in name for row in rows_of(settings) for name in row)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"objective__teacher_of": "null"}, "objective.temperature=2.0: has no effect without objective.teacher_of"),
        ({"objective__whole_words": "true", "model__llm__bidirectional": "false"}, "where nothing is masked"),
        ({"model__trainable": "lora"}, "what is not trained would stay random; set model.trainable=all"),
        ({"model__start": "x"}, "model.llm.from_scratch=true: has no effect beside model.start=x"),
        (
            {"model__start": "x", "model__llm__from_scratch": "false", "model__llm__config": "null"},
            "export that run and name the folder there",
        ),
        ({"model__llm__from_scratch": "false"}, "has no effect without model.llm.from_scratch=true"),
        ({"objective__mask_token_share": "0.95"}, "above 1 together"),
        ({"objective__teacher_of__de": "x"}, "two teachers for deu_Latn"),
        ({"objective__teacher_of__xx": "x"}, "unknown language tag 'xx'"),
        (
            {
                f"objective__teacher_of__deu_Latn__{name}": value
                for name, value in (("name", "HPLT/hplt_bert_base_de"), ("trust_remote_code", "true"), ("revision", "main"))
            },
            "objective.teacher_of.deu_Latn.revision=main: code from the hub runs at one commit only",
        ),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit(recipe, change, words):
    with pytest.raises(UserError, match=words.replace(".", r"\.")):
        settings_of(recipe, **change)


def refused(recipe, **overrides):
    with pytest.raises(UserError) as caught:
        check_run(settings_of(recipe, run__output_dir=recipe.parent / "refused", **overrides), 1)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_language_without_a_teacher(recipe, tmp_path):
    shards = build_language_shards(tmp_path / "train", recipe.parent / "tokenizer", {"eng_Latn": 6, "deu_Latn": 6})
    assert "holds no sample of fra_Latn; add text, or leave the teacher out" in refused(recipe, data__train=shards)
    message = refused(with_teachers(recipe, tmp_path, ("eng_Latn", "deu_Latn")))
    assert (
        f"objective.teacher_of: no teacher for fra_Latn, which data.train={recipe.parent / 'train'} holds;" in message
    )
    sets = f"[{{path: {recipe.parent / 'train'}}}, {{path: {shards}}}]"
    message = refused(with_teachers(recipe, tmp_path, ("eng_Latn", "deu_Latn")), data__train=sets)
    assert f"which data.train={recipe.parent / 'train'}, {shards} holds;" in message


def with_teachers(recipe, folder, codes):
    import yaml

    values = yaml.safe_load(recipe.read_text())
    values["objective"]["teacher_of"] = {code: values["objective"]["teacher_of"][code] for code in codes}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_teacher_with_another_vocabulary(recipe, tmp_path):
    other = save_masked_lm(tmp_path / "other", tokenizer=save_bert_tokenizer(tmp_path / "tokenizer", vocab_size=300))
    message = refused(recipe, objective__teacher_of__deu_Latn=other)
    assert "objective.teacher_of.deu_Latn=" in message
    assert "its vocabulary is not the student's" in message


def test_a_teacher_with_a_longer_table_of_the_same_vocabulary(recipe, tmp_path):
    larger = save_masked_lm(tmp_path / "larger", tokenizer=recipe.parent / "tokenizer")
    model = AutoModelForMaskedLM.from_pretrained(larger)
    model.resize_token_embeddings(136)
    model.save_pretrained(larger)
    settings = run_on(1, recipe, "larger", objective__teacher_of__deu_Latn=larger, run__max_steps=2)
    assert losses_of(settings)


def test_a_teacher_whose_vocabulary_is_mapped(recipe, tmp_path):
    other = save_masked_lm(tmp_path / "other", tokenizer=save_bert_tokenizer(tmp_path / "tokenizer"))
    chosen = {"objective__teacher_of__deu_Latn": other}
    message = refused(recipe, objective__min_coverage=0.99, **chosen)
    assert "of the tokens of deu_Latn, less than objective.min_coverage=0.99" in message
    settings = run_on(1, recipe, "mapped", objective__min_coverage=0.2, **chosen)
    assert all(row["eval_teacher_nll/deu_Latn"] > 0 for row in rows_of(settings) if "eval_nll" in row)
    (line,) = [line for line in check_run(settings, 1).teachers if "deu_Latn" in line and "has" in line]
    (told,) = re.findall(r"it has (\d+\.\d)% of the text's tokens, \d+ of 131 pieces", line)
    assert float(told) == pytest.approx(100 * share_of_pieces(recipe, other), abs=0.051)
    shutil.copytree(settings.data.train, tmp_path / "train")
    manifest = Manifest.load(tmp_path / "train")
    damage_block(tmp_path / "train", manifest.index.language.tolist().index(manifest.languages.index("deu_Latn")))
    chosen |= {"objective__min_coverage": 0.2, "data__train": tmp_path / "train"}
    assert "sha256 differs" in refused(recipe, **chosen)
    chosen |= {"data__on_error": "skip", "data__max_skipped_share": 0.9, "run__output_dir": tmp_path / "run"}
    assert any(
        "deu_Latn" in line and "of the text's tokens" in line
        for line in check_run(settings_of(recipe, **chosen), 1).teachers
    )


def share_of_pieces(recipe, teacher):
    """Of the German pieces that are no special token, those whose letters the teacher's vocabulary has too."""
    own = AutoTokenizer.from_pretrained(recipe.parent / "tokenizer")
    pieces = AutoTokenizer.from_pretrained(teacher).get_vocab()
    ids = [
        i
        for batch in EvalStream(str(recipe.parent / "train"), batch_size=8)
        for row, mask, language in zip(batch.llm_ids, batch.llm_mask.bool(), batch.languages, strict=True)
        if batch.language_codes[language] == "deu_Latn"
        for i in row[mask].tolist()
    ]
    asked = [own.convert_ids_to_tokens(i) for i in ids if i not in own.all_special_ids]
    has = [(piece[1:] if piece.startswith("▁") else f"##{piece}") in pieces for piece in asked]
    assert asked
    return sum(has) / len(has)


def test_a_teacher_that_brings_its_own_code_teaches_as_the_known_one_does(recipe, tmp_path):
    """A whole run, with the same weights once as a Llama and once as a class that comes with its folder."""
    known = save_tiny_llama(shutil.copytree(recipe.parent / "tokenizer", tmp_path / "known"))
    own = give_own_model(shutil.copytree(known, tmp_path / "own"))
    chosen = {
        "model__llm__config__model_type": "llama", "model__llm__bidirectional": "false", "objective__mask_share": 0.15,
        **{f"objective__teacher_of__{code}__name": known for code in SOURCES}, "run__max_steps": 2,
    }  # fmt: skip
    expected = run_on(1, recipe, "known", **chosen)
    chosen |= {
        "objective__teacher_of__deu_Latn__name": own,
        "objective__teacher_of__deu_Latn__trust_remote_code": "true",
    }
    found = run_on(1, recipe, "own", **chosen)
    same_rows(expected, found)
    assert all(row["eval_teacher_nll/deu_Latn"] > 0 for row in rows_of(found) if "eval_nll" in row)


def test_a_masked_teacher_that_brings_its_own_code_teaches_alike(recipe, alone, tmp_path):
    own = give_own_masked_model(shutil.copytree(recipe.parent / "teacher_deu_Latn", tmp_path / "own"))
    chosen = {
        "objective__teacher_of__deu_Latn__name": own,
        "objective__teacher_of__deu_Latn__trust_remote_code": "true",
    }
    same_rows(alone, run_on(1, recipe, "own_masked", **chosen))


def save_tiny_llama(folder):
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=131,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_in_shares_one_teacher_is_whole_unless_more_are_asked_for(recipe):
    assert settings_of(recipe, objective__shard_teachers="true").objective.bank.on_device == 1
    assert settings_of(recipe).objective.bank.on_device is None


def test_a_run_is_no_teacher_until_it_is_exported(recipe, alone):
    message = refused(recipe, objective__teacher_of__deu_Latn=alone.run.output_dir)
    assert "it is a run; name the folder that `mtllm-ds export" in message


def test_a_teacher_that_is_not_there(recipe, tmp_path):
    message = refused(recipe, objective__teacher_of__deu_Latn=tmp_path / "gone")
    assert message.startswith("objective.teacher_of.deu_Latn")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"hidden_size": 17}, "model.llm.config: no bert model is like that"),
        ({"hiden_size": 16}, "model.llm.config.hiden_size: a bert model has no such setting; nearest: hidden_size"),
        ({"model_type": "bort"}, "model.llm.config.model_type=bort: transformers knows no such architecture"),
        ({"vocab_size": 10}, "pieces; remove it"),
    ],
)
def test_architectures_that_cannot_be(recipe, config, words):
    overrides = {f"model__llm__config__{name}": value for name, value in config.items()}
    assert words in refused(recipe, **overrides)


def test_texts_that_a_model_has_no_positions_for(recipe, tmp_path):
    assert "model.llm.name=" in (said := refused(recipe, model__llm__config__max_position_embeddings=20))
    assert "reads at most 20 tokens, and a sample has 64; prepare the shards with a smaller --max-length" in said
    short = save_masked_lm(tmp_path / "short", tokenizer=recipe.parent / "tokenizer")
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 30}))
    assert refused(recipe, objective__teacher_of__fra_Latn=short).startswith(
        f"objective.teacher_of.fra_Latn={short}: reads at most 30 tokens"
    )
    rotary = {"model__llm__config__model_type": "modernbert", "model__llm__config__max_position_embeddings": 20}
    check_run(settings_of(recipe, run__output_dir=tmp_path / "run", **rotary), 1)


def test_the_plan_names_teachers(recipe):
    plan = check_run(settings_of(recipe, run__output_dir=recipe.parent / "planned"), 1)
    text = describe_plan(plan)
    assert f"teacher of deu_Latn: {recipe.parent / 'teacher_deu_Latn'}, sha256:" in text
    assert json.dumps(plan.bases)
