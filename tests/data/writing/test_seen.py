import random

import pytest

from mtllm_ds.data.writing.seen import SeenTexts
from mtllm_ds.errors import UserError


def test_it_remembers_what_a_set_does_in_few_bytes():
    rng = random.Random(0)
    seen, truth = SeenTexts(), set()
    for _ in range(60_000):
        text = str(rng.randrange(40_000)).encode()
        assert seen.add(text) == (text not in truth)
        truth.add(text)
    assert len(seen) == len(truth)
    assert seen.num_bytes <= 24 * len(seen)


def test_its_memory_is_bounded():
    seen = SeenTexts(most_slots=1 << 13)
    with pytest.raises(UserError, match=r"^--deduplicate: more than 5,461 different documents.*prepare it in parts"):
        [seen.add(str(number).encode()) for number in range(10_000)]
    assert seen.num_bytes == 8 << 13
    assert not seen.add(b"17")
