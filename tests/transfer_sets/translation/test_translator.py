"""Ranks that translate together: where one's engine fails, all leave with its one line, and soon."""

import pytest

from mtllm_ds.cluster.agree import own_rank
from mtllm_ds.cluster.launch import join_cluster
from mtllm_ds.errors import UserError
from mtllm_ds.transfer_sets.translation.translator import Translator
from tests.distributed.ranks import RankError, ranks

NUM_SENTENCES = 40


class Breaking:
    """Translates by capitals; on one rank it dies in its second batch, or knows no languages."""

    batch_size = 2

    def __init__(self, log, broken_rank, knows_languages=True):
        self.log, self.is_broken, self.knows_languages = log, own_rank() == broken_rank, knows_languages
        self.num_batches = 0

    def key(self, source, target):
        if self.is_broken and not self.knows_languages:
            raise UserError("--mt=command:x: no such pair; name another")
        return {"source": source, "target": target}

    def length(self, sentence, source):
        return len(sentence)

    def fits(self, sentence, source):
        return True

    def translate(self, sentences, source, target):
        self.num_batches += 1
        if self.is_broken and self.num_batches == 2:
            raise UserError("--mt=command:x: ended with status 1; try it by hand")
        (self.log / f"{own_rank()}").write_text(str(self.num_batches))
        return [sentence.upper() for sentence in sentences]


def translate(folder, broken_rank, knows_languages):
    """On a rank of a pool."""
    join_cluster()
    engine = Breaking(folder, broken_rank, knows_languages)
    texts = [f"sentence {number}" for number in range(NUM_SENTENCES)]
    return Translator(engine, folder / "cache").translate(texts, "eng_Latn", "deu_Latn")


@pytest.mark.parametrize("broken_rank", [0, 1])
@pytest.mark.parametrize(("knows_languages", "words"), [(True, "ended with status 1"), (False, "no such pair")])
def test_an_error_of_one_rank_stops_all_within_a_batch(tmp_path, broken_rank, knows_languages, words):
    with pytest.raises(RankError, match=words) as raised:
        ranks(2).run(translate, tmp_path, broken_rank, knows_languages)
    kinds = [error[0] for error in raised.value.errors]
    assert kinds[broken_rank] == "UserError"
    assert kinds[1 - broken_rank] == "PeerFailedError"
    if knows_languages:
        assert [int((tmp_path / str(rank)).read_text()) for rank in (broken_rank, 1 - broken_rank)] == [1, 2]
    # What was translated is kept: mended, they go on.
    expected = [f"SENTENCE {number}" for number in range(NUM_SENTENCES)]
    assert ranks(2).run(translate, tmp_path, None, True) == [expected, expected]
