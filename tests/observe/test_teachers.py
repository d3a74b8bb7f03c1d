"""What the rows of a run say of its teachers: first and last validation, over the tokens that both sides have."""

import io

from rich.console import Console

from mtllm_ds.observe.teachers import Known, knowledge_of, knowledge_table


def row(step, level, **more):
    return {"step": step} | {
        f"eval_{name}{place}": value
        for place in ("", "/deu_Latn")
        for name, value in {"teacher_nll": 2.0, "nll": level, **more}.items()
    }


def test_before_and_after_are_the_first_and_the_last_validation():
    knowledge = knowledge_of(
        [{"step": 1, "loss": 3.0}, row(0, 9.0), row(2, 5.0), {"step": 4, "loss": 1.0}, row(4, 3.0)]
    )
    assert (knowledge.first_step, knowledge.last_step) == (0, 4)
    assert knowledge.of == {"all": Known(2.0, 9.0, 3.0), "deu_Latn": Known(2.0, 9.0, 3.0)}


def test_where_a_teacher_lacks_tokens_the_others_are_compared():
    knowledge = knowledge_of([row(0, 9.0, shared_nll=8.0), row(4, 3.0, shared_nll=2.5)])
    assert knowledge.of["deu_Latn"] == Known(2.0, 8.0, 2.5)
    # Of a language whose teacher has every token there is none.
    assert knowledge_of([row(0, 9.0) | {"eval_shared_nll": 8.0}]).of["deu_Latn"].before == 9.0


def test_rows_without_the_student_are_passed_over():
    lone = {"step": 0, "eval_teacher_nll": 2.0, "eval_teacher_nll/deu_Latn": 2.0}
    assert knowledge_of([lone]) is None
    assert knowledge_of([lone, row(2, 5.0), row(4, 3.0), {**lone, "step": 6}]).of["all"] == Known(2.0, 5.0, 3.0)
    assert set(knowledge_of([row(2, 5.0), {**lone, "eval_nll": 3.0}]).of) == {"all"}


def test_without_teachers_there_is_nothing_to_say():
    assert knowledge_of([{"step": 4, "eval_nll": 3.0}, {"step": 1, "loss": 2.0}]) is None


def test_the_table_names_steps_and_languages():
    out = io.StringIO()
    Console(file=out, width=100).print(knowledge_table(knowledge_of([row(0, 9.0), row(20, 3.0)])))
    lines = [line.split() for line in out.getvalue().replace("│", " ").replace("┃", " ").splitlines()]
    assert ["deu_Latn", "2.000", "9.000", "3.000"] in lines
    assert lines.index(["all", "2.000", "9.000", "3.000"]) > lines.index(["deu_Latn", "2.000", "9.000", "3.000"])
    assert ["language", "teacher", "student,", "step", "0", "student,", "step", "20"] in lines
