import pytest

from mtllm_ds.errors import UserError
from mtllm_ds.languages import ALIASES, FLORES_200, check_language, nearest_code


def test_there_are_204_codes_in_order():
    assert len(FLORES_200) == 204 == len(set(FLORES_200))
    assert list(FLORES_200) == sorted(FLORES_200)
    assert all(len(code) == 8 and code[3] == "_" for code in FLORES_200)


def test_nllb_tags_are_all_known():
    from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES

    assert {check_language(code) for code in FAIRSEQ_LANGUAGE_CODES} == set(FLORES_200) - {"arb_Latn", "min_Arab"}


def test_aliases_lead_to_codes_and_hide_none():
    assert set(ALIASES.values()) <= set(FLORES_200)
    assert not set(ALIASES) & set(FLORES_200)
    assert check_language("de") == "deu_Latn"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("ell_Latn", "ell_Grek"),
        ("hin_Latn", "hin_Deva"),
        ("deu_Ltn", "deu_Latn"),
        ("eng", "eng_Latn"),
        ("ENG_LATN", "eng_Latn"),
        ("fre_Latn", "fra_Latn"),
    ],
)
def test_an_unknown_code_names_the_nearest(wrong, right):
    with pytest.raises(UserError, match=right):
        check_language(wrong)


def test_what_is_no_code_at_all_names_no_language():
    with pytest.raises(UserError, match="they look like 'deu_Latn'"):
        check_language("german")


def test_nearest_among_the_tags_a_tokenizer_knows():
    assert nearest_code("fra_Arab", ["deu_Latn", "fra_Latn"]) == "fra_Latn"
