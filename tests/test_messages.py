"""Every mistake is told in one form: `key=value: what is wrong; how to mend`. Read from the source, as messages stand there."""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PRODUCT = REPOSITORY / "mtllm_ds"
PLACE = "\0"
"""Stands for what is filled in; what a message begins or ends with may hold the key, or what is wrong and how to mend it."""
FORM = re.compile(rf"(?:[^;]*?\S: .+|{PLACE}.*); .+|[^;]*?\S: {PLACE}", re.DOTALL)
TOLD = {"UserError": 0, "BadLineError": 2}
"""Errors, and which of their arguments is the message (of a bad line without its place)."""


def text_of(node):
    """The message of an expression; None where it is made elsewhere."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else PLACE for part in node.values)
    return None


def messages(path):
    """(line, message) of all that a module tells users."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) in TOLD:
            argument = TOLD[node.func.id]
            text = text_of(node.args[argument]) if len(node.args) > argument else None
            text = text if text is None or not argument else f"{PLACE}: {text}"
        elif isinstance(node, ast.Yield) and path.parent.name == "config":
            text = text_of(node.value)
        else:
            continue
        if text is not None:
            yield node.lineno, text


PLACES = [*sorted({path.relative_to(REPOSITORY).parts[1] for path in PRODUCT.rglob("*.py")}), "../benchmarks"]


@pytest.mark.parametrize("floor", PLACES)
def test_messages_say_what_is_meant_what_is_wrong_and_how_to_mend(floor):
    place = (PRODUCT / floor).resolve()
    odd = [
        f"{path.relative_to(REPOSITORY)}:{line}: {text.replace(PLACE, '...')}"
        for path in ([place] if place.is_file() else sorted(place.rglob("*.py")))
        for line, text in messages(path)
        if not FORM.fullmatch(text) or "\n" in text
    ]
    assert odd == []


def test_messages_are_found():
    assert sum(len(list(messages(path))) for path in PRODUCT.rglob("*.py")) > 200
    assert FORM.fullmatch(f"data.lanes={PLACE}: fewer than the {PLACE} ranks; raise it")
    for odd in ("no such file: x", "the file is empty; leave it out", f"x {PLACE}: wrong"):
        assert not FORM.fullmatch(odd)
