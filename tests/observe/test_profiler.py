"""What may be asked of a profile, and what is refused in one line."""

import pytest

from mtllm_ds.commands.train import main
from mtllm_ds.errors import UserError
from mtllm_ds.observe.profiler import ProfileRequest
from tests.fixtures.runs import make_run

REFUSED = (
    "",
    "10:13",
    "steps=10",
    "steps=13:10",
    "steps=0:2",
    "steps=3:3",
    "steps=a:b",
    "steps=1:2,ranks=3",
    "steps=-1:2",
)


@pytest.mark.parametrize("text", REFUSED)
def test_other_words_are_refused(text):
    with pytest.raises(UserError, match=r"--profile=.*: expected steps=FIRST:END with 0 < FIRST < END, such as"):
        ProfileRequest.parse(text)


def test_steps_and_ranks():
    assert ProfileRequest.parse("steps=10:13") == ProfileRequest(10, 13)
    everyone = ProfileRequest.parse("steps=1:2,ranks=all")
    assert everyone == ProfileRequest(1, 2, all_ranks=True)
    assert str(everyone) == "steps=1:2,ranks=all"


def test_steps_that_the_run_does_not_take_are_refused():
    request = ProfileRequest(10, 13)
    request.check(9, 12)
    with pytest.raises(UserError, match=r"--profile=steps=10:13: run.max_steps=11 ends before step 12"):
        request.check(0, 11)
    with pytest.raises(
        UserError, match=r"--profile=steps=10:13: the run goes on after step 10; profile steps from 11 on"
    ):
        request.check(10, 20)


def test_a_dry_run_refuses_them_too(tmp_path):
    recipe = make_run(tmp_path)
    with pytest.raises(UserError, match=r"--profile=steps=3: expected"):
        main(["--recipe", str(recipe), "--profile", "steps=3", "--dry-run"])
    with pytest.raises(UserError, match=r"run.max_steps=8 ends before step 9"):
        main(["--recipe", str(recipe), "--profile", "steps=8:10", "--dry-run"])
