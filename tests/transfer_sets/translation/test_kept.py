"""What a translation may not touch comes out as it went in; the rest is translated."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mtllm_ds.transfer_sets.translation.kept import masked_pieces
from mtllm_ds.transfer_sets.translation.translator import Translator

CODE = """Run it:

```python
x = 1  # Do not translate. Please.
```
Then read the output."""


class Shouting:
    """Translates by capitals; `damage` is what it does to a sentence besides."""

    batch_size = 3

    def __init__(self, damage=lambda sentence: sentence):
        self.damage = damage
        self.asked = []

    def key(self, source, target):
        return {"source": source, "target": target}

    def length(self, sentence, source):
        return len(sentence)

    def fits(self, sentence, source):
        return True

    def translate(self, sentences, source, target):
        self.asked += sentences
        return [self.damage(sentence.upper()) for sentence in sentences]


def shouted(text, damage=lambda sentence: sentence):
    return Translator(Shouting(damage), keep_code=True).translate([text], "eng_Latn", "spa_Latn")[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CODE, CODE.replace("Run it", "RUN IT").replace("Then read the output", "THEN READ THE OUTPUT")),
        ("call `f(x. y)` now. Then stop.", "CALL `f(x. y)` NOW. THEN STOP."),
        ("see https://a.org/b?c=d. It helps.", "SEE https://a.org/b?c=d. IT HELPS."),
        ("a <b class='x'>bold</b> word &amp; more", "A <b class='x'>BOLD</b> WORD &amp; MORE"),
        ("# Head\n\n1. one\n2. two\n   - three `x`\n> said", "# HEAD\n\n1. ONE\n2. TWO\n   - THREE `x`\n> SAID"),
        ("mail me@x.org, {name} or %s", "MAIL me@x.org, {name} OR %s"),
        ("| a | b |\n|---|---|\n| c | d |", "| A | B |\n|---|---|\n| C | D |"),
        ("so $$x_i = y$$ holds, and \\(a b\\) too", "SO $$x_i = y$$ HOLDS, AND \\(a b\\) TOO"),
        ("```\nnever closed\n", "```\nnever closed\n"),
        ("`only` `code`", "`only` `code`"),
        ("a \U000f0001 private `b` character", "A \U000f0001 PRIVATE `b` CHARACTER"),
        ("X0X and Q1Q stand by `x`", "X0X AND Q1Q STAND BY `x`"),
        ("", ""),
        ("  \n", "  \n"),
    ],
)
def test_only_prose_is_translated(text, expected):
    assert shouted(text) == expected


def test_a_lost_or_doubled_part_is_translated_around():
    text = "call `f` and `g` now."
    expected = "CALL `f` AND `g` NOW."
    losses = [lambda s: s.replace("X1X", ""), lambda s: s.replace("X0X", "X0X X0X"), lambda s: s.replace("X", "x")]
    for damage in (*losses, lambda s: s.replace("X0X", "X1X")):
        assert shouted(text, damage) == expected


def test_the_order_of_kept_parts_may_change():
    assert shouted("first `f` then `g`", lambda s: " ".join(reversed(s.split()))) == "`g` THEN `f` FIRST"


def test_without_anything_kept_nothing_changes():
    engines = Shouting(), Shouting()
    text = "One sentence. Another one!\nA line  with blanks."
    plain = Translator(engines[0]).translate([text], "eng_Latn", "spa_Latn")
    assert plain == Translator(engines[1], keep_code=True).translate([text], "eng_Latn", "spa_Latn")
    assert engines[0].asked == engines[1].asked


@example("X0`0`")
@example("`0`0X")
@example("X0Q0Z0W0K0`0`")
@given(st.text(alphabet="ab `*#-.\n<>/X01Q\U000f0000é{}|$\\", max_size=60))
def test_any_text_is_put_together_again(text):
    """With nothing translated, all but white space comes back, whatever was hidden."""

    class Silent(Shouting):
        def translate(self, sentences, source, target):
            return list(sentences)

    found = Translator(Silent(), keep_code=True).translate([text], "eng_Latn", "spa_Latn")[0]
    assert re.sub(r"\s", "", found) == re.sub(r"\s", "", text)
    assert all(piece.sentence.kept or "\U000f0000" not in piece.sentence.asked for piece in masked_pieces(text))
