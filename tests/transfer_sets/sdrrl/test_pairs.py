"""Pairs: as many of each type as the weights say, exactly, and each made of what its type says."""

import pytest

from mtllm_ds.errors import UserError
from mtllm_ds.transfer_sets.sdrrl.pairs import DEFAULT_WEIGHTS, PAIR_TYPES, Material, PairSettings, allotted, make_pairs

ANSWERS = [
    {"id": f"{number:016x}", "prompt": f"Open file {number}? Then close it.", "response": f"Answer {number}."}
    for number in range(1, 41)
]
ALL = dict.fromkeys(PAIR_TYPES, 1.0)


def material(code, num_parallel=40, lexicon=True):
    translations = {
        row["id"]: {
            "id": row["id"],
            "prompt": f"{code}-{row['prompt']}",
            "response": f"{code}-{row['response']}",
            "parts": [["", "Open file?", f"{code}-1"], [" ", "Then close it.", f"{code}-2"]],
        }
        for row in ANSWERS
    }
    parallel = [(f"one two three {i}", f"{code} a b c d e f g h {i}") for i in range(num_parallel)]
    return Material(translations, {"file": code, "open": "abrir"} if lexicon else {}, parallel, code.title())


MATERIAL = {code: material(code) for code in ("spa_Latn", "epo_Latn")}


def counts_of(rows):
    found = {}
    for row in rows:
        cell = row["pair_type"], row["history"]["target"]
        found[cell] = found.get(cell, 0) + 1
    return found


@pytest.mark.parametrize("total", [None, 7, 40, 133])
@pytest.mark.parametrize("weights", [DEFAULT_WEIGHTS, ALL, {"q_t_a_t": 3.0, "q_en_a_en": 1.0}, {"translation": 0.1}])
def test_realised_counts_match_the_weights(weights, total):
    settings = PairSettings(weights=weights, total=min(total, 70) if total and len(weights) < 5 else total)
    rows, counts = make_pairs(ANSWERS, MATERIAL, settings)
    assert counts_of(rows) == {cell: count for cell, count in counts.items() if count}
    assert len({row["id"] for row in rows}) == len(rows)
    whole = sum(weights.values())
    for (name, _), count in counts.items():
        share = weights[name] / whole / (1 if name == "q_en_a_en" else 2)
        assert abs(count - share * len(rows)) < 1  # largest remainder
    if total is not None:
        assert len(rows) == settings.total


def test_all_that_the_rarest_type_allows():
    counts = allotted(
        {("q_t_a_t", "spa_Latn"): 40, ("q_en_a_en", "eng_Latn"): 9},
        PairSettings(weights={"q_t_a_t": 3, "q_en_a_en": 1}),
    )
    assert counts == {("q_t_a_t", "spa_Latn"): 27, ("q_en_a_en", "eng_Latn"): 9}


def test_each_type_is_made_of_what_it_says():
    settings = PairSettings(weights=ALL, code_switch_ratio=1.0, seed=3)
    rows, _ = make_pairs(ANSWERS, MATERIAL, settings)
    by_id = {row["id"]: row for row in ANSWERS}
    seen = set()
    for row in rows:
        name, target, link = row["pair_type"], row["history"]["target"], row["history"].get("instruction")
        seen.add(name)
        if link is None:
            continue
        question, answer = by_id[link]["prompt"], by_id[link]["response"]
        there = MATERIAL[target].translations[link] if target in MATERIAL else None
        number = int(link, 16)
        response = answer if name.endswith("a_en") else there["response"]
        if name == "partially_translated":
            prompts = [f"{target}-1 Then close it.", f"Open file? {target}-2"]
        elif name == "code_switched":
            prompts = [f"Abrir {target} {number}? Then close it."]
        else:
            prompts = [question if name.startswith("q_en") else there["prompt"]]
        assert row["prompt"] in prompts
        assert row["response"] == response
        assert row.get("teacher_prompt", row["prompt"]) == question
        assert row["language"] == ("eng_Latn" if name.startswith("q_en") else target)
    assert seen == set(PAIR_TYPES)


def test_text_is_completed_and_translated_both_ways():
    rows, _ = make_pairs(ANSWERS, MATERIAL, PairSettings(weights={"completion": 1, "translation": 1}))
    ways = set()
    for row in rows:
        english, text = row["history"]["english"], row["history"]["text"]
        order, _, given = row["prompt"].partition(":\n")
        assert "teacher_prompt" not in row
        if row["pair_type"] == "completion":
            assert f"{given} {row['response']}" == text
            assert order == f"Continue this text in {row['history']['target'].title()}"
        else:
            into = row["language"] == "eng_Latn"
            ways.add(into)
            assert (given, row["response"]) == ((english, text) if into else (text, english))
            assert order == f"Translate into {row['history']['target'].title() if into else 'English'}"
    assert ways == {True, False}


def test_scripts_without_blanks_are_completed_too():
    texts = [("x", "\u6587" * 10), ("y", "\u6587\u5b57" * 15)]  # the first is too short
    found = {"jpn_Jpan": Material({}, parallel=texts, name="Japanese")}
    (row,), _ = make_pairs([], found, PairSettings(weights={"completion": 1}))
    given = row["prompt"].removeprefix("Continue this text in Japanese:\n")
    assert given + row["response"] == texts[1][1]
    assert len(given) == len(row["response"])


def test_ratio_0_is_the_question_itself():
    rows, _ = make_pairs(ANSWERS, MATERIAL, PairSettings(weights={"code_switched": 1}, code_switch_ratio=0.0))
    assert {row["prompt"] for row in rows} <= {row["prompt"] for row in ANSWERS}
    assert not any("teacher_prompt" in row for row in rows)


def test_a_seed_decides_which_and_in_which_order():
    first, again, other = (
        make_pairs(ANSWERS, MATERIAL, PairSettings(weights=DEFAULT_WEIGHTS, total=30, seed=seed))[0]
        for seed in (0, 0, 1)
    )
    assert first == again != other


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"weights": {"q_x": 1.0}}, "--pairs q_x=1: no such type; there are q_en_a_en, "),
        ({"weights": {"q_t_a_t": -1.0}}, "q_t_a_t=-1: out of range"),
        ({"weights": {"q_t_a_t": float("nan")}}, "q_t_a_t=nan: out of range"),
        ({"weights": {"q_t_a_t": 0.0}}, "every weight is 0"),
        ({"weights": ALL, "code_switch_ratio": 1.5}, "--code-switch-ratio=1.5: out of range"),
        (
            {"weights": {"q_t_a_t": 1.0}, "total": 100},
            "--num-pairs=100: that is 50 of q_t_a_t in .*, and 40 can be made",
        ),
    ],
)
def test_mistakes_are_one_line(given, line):
    with pytest.raises(UserError, match=line):
        make_pairs(ANSWERS, MATERIAL, PairSettings(**given))


def test_a_type_without_material_is_told():
    with pytest.raises(UserError, match="--pairs code_switched: nothing in spa_Latn it could be made of"):
        make_pairs(ANSWERS, {"spa_Latn": material("spa_Latn", lexicon=False)}, PairSettings(weights=ALL))


def test_a_teacher_sees_what_is_asked_for_in_the_language_of_the_response():
    weights = {"q_t_a_t": 1, "q_t_a_en": 1, "q_en_a_en": 1}
    answers, by_id = ANSWERS[:6], {row["id"]: row for row in ANSWERS}
    for sees in ("language", "answer"):
        rows, _ = make_pairs(answers, MATERIAL, PairSettings(weights=weights, teacher_sees=sees))
        assert {row["pair_type"] for row in rows} == set(weights)
        for row in rows:
            question, told = by_id[row["history"]["instruction"]]["prompt"], row["teacher_prompt"]
            language = row["history"]["target"].title() if row["pair_type"] == "q_t_a_t" else "English"
            assert told.startswith(f"{question}\n\n")
            assert f"in {language}" in told
            assert (row["response"] in told) == (sees == "answer")
