"""Steps run in the order of their needs, once each, and go on where they were stopped."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.steps import Step, Steps, chosen_steps, describe, require_same
from mtllm_ds.errors import UserError
from mtllm_ds.training.preemption import EXIT_PREEMPTED

ROOT = Path(__file__).parents[2]


def write(path: Path, text: str = "x") -> list[str]:
    """A command that appends a text to a file."""
    return [sys.executable, "-c", f"open({str(path)!r}, 'a').write({text!r})"]


def steps_in(root: Path, num_jobs: int = 2) -> Steps:
    return Steps(root, num_jobs, {"GREETING": "hello"}, Console(quiet=True))


def test_steps_come_after_what_they_need_and_only_once(tmp_path):
    trace = tmp_path / "trace"
    plan = [
        Step("a", [write(trace, "a"), write(trace, "b")]),
        Step("deep/c", lambda: [write(trace, trace.read_text().upper())], ("a",)),
        Step("d", [write(trace, "d")], ("a", "deep/c")),
    ]
    assert steps_in(tmp_path / "run").run(plan)
    assert trace.read_text() == "abABd"
    assert steps_in(tmp_path / "run").run(plan)
    assert trace.read_text() == "abABd"
    assert "done  deep/c" in describe(plan, steps_in(tmp_path / "run").is_done, 1)


def test_what_the_result_needs_comes_first(tmp_path):
    trace = tmp_path / "trace"
    plan = [
        Step("rival", [write(trace, "r")], optional=True),
        Step("a", [write(trace, "a")]),
        Step("b", [write(trace, "b")], ("a",)),
    ]
    assert steps_in(tmp_path / "run", num_jobs=1).run(plan)
    assert trace.read_text() == "abr"


def test_chosen_steps_bring_what_they_need():
    plan = [Step("a", []), Step("b/x", [], ("a",)), Step("b/y", []), Step("c", [], ("b/x",)), Step("d", [], ("c",))]

    def names(*only: str) -> list[str]:
        return [step.name for step in chosen_steps(plan, only)]

    assert names() == ["a", "b/x", "b/y", "c", "d"]
    assert names("c") == ["a", "b/x", "c"]
    assert names("b") == ["a", "b/x", "b/y"]
    with pytest.raises(UserError, match="--only e: no step of that name"):
        names("e")


def test_a_failure_is_told_with_its_last_line_and_only_it_runs_again(tmp_path):
    trace, gate = tmp_path / "trace", tmp_path / "gate"
    code = f"import os, sys; os.path.exists({str(gate)!r}) or sys.exit('no gate')"
    plan = [
        Step("a", [write(trace, "a")]),
        Step("b", [[sys.executable, "-c", code]], ("a",)),
        Step("c", [write(trace, "c")], ("b",)),
    ]
    with pytest.raises(UserError, match=r"step b failed \(status 1\): no gate; see .*log.txt"):
        steps_in(tmp_path / "run").run(plan)
    gate.touch()
    assert steps_in(tmp_path / "run").run(plan)
    assert trace.read_text() == "ac"


def test_the_deadline_ends_between_two_steps(tmp_path):
    trace = tmp_path / "trace"
    plan = [Step(name, [write(trace, name)]) for name in "ab"]
    steps = steps_in(tmp_path / "run", num_jobs=1)
    assert not steps.run(plan, deadline_seconds=-1)
    assert not trace.exists()
    assert steps.run(plan)


def test_what_steps_see(tmp_path):
    code = f"import os; open({str(tmp_path / 'seen')!r}, 'w').write(os.environ['GREETING'])"
    assert steps_in(tmp_path / "run").run([Step("a", [[sys.executable, "-c", code]])])
    assert (tmp_path / "seen").read_text() == "hello"


def test_a_terminated_run_ends_its_steps_and_goes_on_later(tmp_path):
    sleeper = tmp_path / "pid"
    script = f"""
from benchmarks.steps import Step, Steps
from pathlib import Path
from rich.console import Console
import sys
sleep = "import os, time; open({str(sleeper)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
Steps(Path({str(tmp_path / "run")!r}), 1, {{}}, Console(quiet=True)).run([Step("a", [[sys.executable, "-c", sleep]])])
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not (sleeper.exists() and sleeper.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert "stopped by SIGTERM: 1 of 1 steps are left; start again to go on" in process.communicate(timeout=30)[1]
    with pytest.raises(ProcessLookupError):
        os.kill(int(sleeper.read_text()), 0)
    assert not (tmp_path / "run" / "a" / "done.json").exists()


def test_a_deadline_ends_what_runs_where_that_was_asked(tmp_path):
    """What was under way is not done, what fails by itself is still told, and another run finishes it."""
    trace = tmp_path / "trace"
    slow = f"import time, pathlib; p = pathlib.Path({str(trace)!r}); time.sleep(0 if p.exists() else 60); p.write_text('x')"
    plan = [Step("quick", []), Step("slow", [[sys.executable, "-c", slow]]), Step("after", [], ("slow",))]
    began = time.monotonic()
    steps = steps_in(tmp_path / "run")
    assert not steps.run(plan, deadline_seconds=1.0, ends_there=True)
    assert time.monotonic() - began < 30
    assert [steps.is_done(step) for step in plan] == [True, False, False]
    trace.touch()
    assert steps_in(tmp_path / "run").run(plan, deadline_seconds=300.0, ends_there=True)
    failing = [Step("failing", [[sys.executable, "-c", "raise SystemExit('no')"]])]
    with pytest.raises(UserError, match="step failing failed"):
        steps_in(tmp_path / "run").run(failing, deadline_seconds=300.0, ends_there=True)


def failing(path: Path | None = None, status: object = "broken") -> list[str]:
    """A command that fails, where a path is given once SIGTERM comes; the path then says that it waits for it."""
    wait = f"""
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit({status!r}))
pathlib.Path({str(path)!r}).touch()
time.sleep(60)
"""
    return [sys.executable, "-c", wait if path else "raise SystemExit('broken')"]


def test_an_optional_step_that_fails_leaves_the_rest_of_the_run(tmp_path):
    trace = tmp_path / "trace"
    plan = [
        Step("rival", [failing()], optional=True),
        Step("after", [write(trace, "r")], ("rival",), optional=True),
        Step("a", [write(trace, "a")]),
    ]
    steps = steps_in(tmp_path / "run", num_jobs=1)
    assert not steps.run(plan)
    assert [steps.is_done(step) for step in plan] == [False, False, True]
    assert trace.read_text() == "a"


def test_a_training_that_saved_when_the_deadline_came_is_left_for_another_time(tmp_path):
    plan = [Step("a", [failing(tmp_path / "waits", EXIT_PREEMPTED)])]
    assert not steps_in(tmp_path / "run").run(plan, deadline_seconds=2.0, ends_there=True)


def test_a_launcher_of_ranks_that_was_asked_to_end_is_left_for_another_time(tmp_path):
    """It ends with status 1 whatever its ranks do, which get the signal from it and save."""
    saved = tmp_path / "saved"
    (tmp_path / "rank.py").write_text(
        f"import pathlib, signal, sys, time\nsaved = pathlib.Path({str(saved)!r})\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (saved.touch(), sys.exit({EXIT_PREEMPTED})))\n"
        f"pathlib.Path({str(tmp_path / 'waits')!r}).touch()\ntime.sleep(60)\n"
    )
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=1",
        str(tmp_path / "rank.py"),
    ]
    steps = steps_in(tmp_path / "run")
    threading.Thread(target=stop_when, args=(steps, tmp_path / "waits"), daemon=True).start()
    with pytest.raises(UserError, match="1 of 1 steps are left"):
        steps.run([Step("a", [launch])])
    assert saved.exists()


def stop_when(steps: Steps, path: Path) -> None:
    """What SIGTERM to the whole run does, as soon as a file is there."""
    while not path.exists():
        time.sleep(0.05)
    steps._stop()


def test_a_step_that_fails_after_the_deadline_is_not_just_left(tmp_path):
    plan = [Step("a", [failing(tmp_path / "waits")])]
    with pytest.raises(UserError, match=r"step a failed \(status 1\): broken"):
        steps_in(tmp_path / "run").run(plan, deadline_seconds=2.0, ends_there=True)


def test_stopping_meets_processes_that_ended_and_signals_that_come_again(tmp_path):
    steps = steps_in(tmp_path / "run")
    ended = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    ended.wait()
    steps._running.add(ended)
    with steps._lock:  # as if a second signal came inside
        steps._stop()
    assert steps._stopping
    assert ended.returncode == 0


def test_another_device_is_another_run(tmp_path):
    settings = {"budget": {"name": "cpu", "minutes": None}, "device": "cpu"}
    require_same(tmp_path / "settings.json", settings)
    require_same(tmp_path / "settings.json", settings)
    with pytest.raises(UserError, match=r"begun with other settings \(device\)"):
        require_same(tmp_path / "settings.json", settings | {"device": "cuda"})
