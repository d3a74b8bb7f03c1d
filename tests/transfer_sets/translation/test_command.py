"""Commands as translators: a line for each sentence; a dead, slow or babbling one is one line. Apertium where it is installed."""

import shlex
import shutil
import sys
import time
from pathlib import Path

import pytest

from mtllm_ds.errors import UserError
from mtllm_ds.transfer_sets.translation.command import CommandEngine
from mtllm_ds.transfer_sets.translation.engines import load_engine
from mtllm_ds.transfer_sets.translation.mt_model import Decoding
from mtllm_ds.transfer_sets.translation.translator import Translator

PAIR = ("eng_Latn", "spa_Latn")


def python(program):
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(program)}"


UPPER = python("import sys; [print(line.strip().upper()) for line in sys.stdin]")


def test_texts_go_through_a_command_sentence_by_sentence(tmp_path):
    log = tmp_path / "log"
    command = python(f"import sys; t = sys.stdin.read(); open({str(log)!r}, 'a').write(t); print(t.upper(), end='')")
    translator = Translator(load_engine(f"command:{command}"), tmp_path / "cache")
    texts = ["One. Two is é.\nThree.", "", "One."]
    assert translator.translate(texts, *PAIR) == ["ONE. TWO IS É.\nTHREE.", "", "ONE."]
    assert sorted(log.read_text().splitlines()) == ["One.", "Three.", "Two is é."]
    again = Translator(load_engine(f"command:{command}"), tmp_path / "cache")
    assert again.translate(texts, *PAIR)[0] == "ONE. TWO IS É.\nTHREE."
    assert len(log.read_text().splitlines()) == 3  # from the cache


def test_control_characters_do_not_break_lines():
    assert CommandEngine(UPPER).translate(["a\rb\x0bc\u2028d\0e"], *PAIR) == ["A B C D E"]


@pytest.mark.parametrize(
    ("program", "line"),
    [
        ("import sys; sys.exit('no\\nsuch dictionary')", r"ended with status 1 \(such dictionary\); try it by hand"),
        ("import os; os.kill(os.getpid(), 9)", r"ended with status -9 \(nothing on stderr\)"),
        ("print('one\\ntwo\\nthree')", "answered 2 sentences with 3 lines; it must write one line for each"),
        ("pass", "answered 2 sentences with 1 lines"),
        ("import time; time.sleep(60)", "gave no answer within 1 seconds; .*raise --time-out"),
        ("import sys; sys.stdout.buffer.write(b'\\xff\\n\\n')", "its answer is not UTF-8"),
    ],
)
def test_what_goes_wrong_is_one_line(program, line):
    with pytest.raises(UserError, match=line) as raised:
        CommandEngine(python(program), time_out_seconds=1).translate(["a", "b"], *PAIR)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith("--translator=command:")


def test_after_a_time_out_nothing_that_the_command_started_goes_on(tmp_path):
    """A wrapper of a shell leaves its own child when it alone is killed."""
    script = tmp_path / "translator.sh"
    script.write_text(f"sleep 300 &\necho $! > {tmp_path}/child\nwait\n")
    with pytest.raises(UserError, match=r"^--mt=command:sh .*: gave no answer within 1 seconds"):
        CommandEngine(f"sh {script}", time_out_seconds=1, option="--mt").translate(["a"], *PAIR)
    child = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/stat")
    deadline = time.monotonic() + 10
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(child)


def is_running(stat):
    """A process that nobody waits for yet has ended all the same."""
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX"


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("no-such-program-here x", "no-such-program-here is not installed"),
        ("", "no command"),
        ("echo 'open", "No closing quotation"),
        ("apertium -u", "names no direction"),
    ],
)
def test_a_command_that_cannot_be_is_told_before_any_work(command, line):
    with pytest.raises(UserError, match=line):
        CommandEngine(command)


@pytest.mark.parametrize("direction", ["eng-spa", "eng-cat", "en-gl"])
def test_without_apertium_the_line_names_the_package(direction, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=f"Apertium is not installed; on Debian: apt-get install apertium-{direction}$"):
        CommandEngine(f"apertium {direction}")


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """An `apertium` of two directions, which says how it was called."""
    program = tmp_path / "bin/apertium"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport sys\nprint(sys.stdin.read().replace('one', ' '.join(sys.argv[1:])), end='')\n"
    )
    program.chmod(0o755)
    modes = tmp_path / "share/apertium/modes"
    modes.mkdir(parents=True)
    data = tmp_path / "data.bin"
    data.write_bytes(b"rules")
    for direction in ("eng-spa", "en-eo"):
        (modes / f"{direction}.mode").write_text(f"lt-proc '{data}'\n")
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    return data


def test_apertium_is_asked_sentence_by_sentence_without_marks(stand_in):
    engine = CommandEngine("apertium eng-spa")
    assert engine.translate(["one", "two"], *PAIR) == ["-u eng-spa", "two"]
    before = engine.key(*PAIR)
    stand_in.write_bytes(b"other rules")
    assert CommandEngine("apertium eng-spa").key(*PAIR) != before


def test_apertiums_other_directions(stand_in):
    with pytest.raises(UserError, match="no direction en-gl here; on Debian: apt-get install apertium-en-gl"):
        CommandEngine("apertium en-gl")
    with pytest.raises(UserError, match="no direction eo-en here; on Debian: apt-get install apertium-eo-en"):
        CommandEngine("apertium eo-en")
    with pytest.raises(UserError, match="translates eng_Latn into epo_Latn, not eng_Latn into spa_Latn"):
        CommandEngine("apertium -u en-eo").key(*PAIR)


def test_settings_of_models_are_refused():
    for more in ({"decoding": Decoding(num_beams=4)}, {"revision": "main"}):
        with pytest.raises(UserError, match=r"^--mt=command:.* a command has no revision, beams or longest sentence"):
            load_engine(f"command:{UPPER}", option="--mt", **more)


@pytest.mark.skipif(
    not Path("/usr/share/apertium/modes/eng-spa.mode").exists(), reason="apertium-eng-spa is not installed"
)
def test_apertium_itself():
    translator = Translator(CommandEngine("apertium eng-spa"), keep_code=True)
    text = "The red house is big. Use `print(x)` to read the book.\n\n- See https://a.org now"
    sentences = ["The red", "house is big", "I like New", "York"]
    found = translator.translate([text, *sentences], *PAIR)
    assert found[0] == "La casa roja es grande. Uso `print(x)` para leer el libro.\n\n- Ve https://a.org ahora"
    # No sentence moves words into its neighbour.
    assert found[1:] == [Translator(CommandEngine("apertium eng-spa")).translate([one], *PAIR)[0] for one in sentences]
