"""A task's language: from the table, else the one for all, else the end of its name."""

import pytest

from mtllm_ds.adapters.task_languages import TaskLanguages
from mtllm_ds.errors import UserError


@pytest.mark.parametrize(
    ("task", "code"),
    [
        ("belebele_deu_Latn", "deu_Latn"),
        ("xnli_de", "deu_Latn"),
        ("m_mmlu_zh", "zho_Hans"),
        ("arc_ceb", "ceb_Latn"),
        ("sib200_ory_Orya", "ory_Orya"),
        ("ours_kor_Kore", "kor_Hang"),
        ("mgsm_native_cot_th", "tha_Thai"),
    ],
)
def test_the_end_of_a_name_tells_it(task, code):
    assert TaskLanguages()(task) == code


@pytest.mark.parametrize("task", ["hellaswag", "de", "deu_Latn", "arc_easy", "xnli_de_"])
def test_a_name_without_one_is_refused(task):
    with pytest.raises(
        UserError, match=f"^languages: the name of the task '{task}' ends with no language's code such as .*; give"
    ):
        TaskLanguages()(task)


@pytest.mark.parametrize(
    "task",
    [
        "agieval_jec_qa_ca", "agieval_lsat_ar", "blimp_nl__infinitival_argument_clause__om_te", "matreshka_yes_no", "mlqa_ar_de",
        "option_order_robustness_agieval_lsat_ar", "uncheatable_eval_arxiv_cs", "xnli_eu_mt", "zhoblimp_causative_shi_ba",
    ],
)  # fmt: skip
def test_a_short_word_at_the_end_of_the_harness_own_names_is_no_language(task):
    """Questions of law, machine translation, arXiv's computer science, yes or no, and contexts in another language."""
    with pytest.raises(
        UserError, match=f"^languages: the name of the task '{task}' ends with no language's code such as .*; give"
    ):
        TaskLanguages()(task)


def test_a_table_comes_before_the_one_for_all_and_that_before_names(tmp_path):
    table = tmp_path / "table.yaml"
    table.write_text("hellaswag: en\nlohelp_*: khm_Khmr\nlohelp_fr: fr\n", encoding="utf-8")
    for given in (str(table), {"hellaswag": "en", "lohelp_*": "khm_Khmr", "lohelp_fr": "fr"}):
        language_of = TaskLanguages("deu_Latn", given)
        assert [language_of(task) for task in ("hellaswag", "lohelp_km", "lohelp_fr", "xnli_fr")] == [
            "eng_Latn", "khm_Khmr", "khm_Khmr", "deu_Latn",
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("lang", "table", "line"),
    [
        ("ell_Latn", None, "ell_Grek"),
        (None, {"a": "ell_Latn"}, "ell_Grek"),
        (None, "nowhere.yaml", r"^languages=nowhere\.yaml: cannot be read .*; give a YAML file$"),
        (None, {"a": 3}, "no table of tasks and codes"),
    ],
)
def test_mistakes_are_one_line(lang, table, line):
    with pytest.raises(UserError, match=line):
        TaskLanguages(lang, table)
