"""Names of languages in English, as prompts spell them: CLDR's, by babel."""

from __future__ import annotations

from mtllm_ds.errors import UserError
from mtllm_ds.languages import ALIASES, check_language


def english_name(language: str) -> str:
    """`spa_Latn` -> Spanish; the code itself where CLDR has no name.

    Raises:
        UserError: babel is not installed.
    """
    try:
        from babel import Locale
    except ImportError as error:
        raise UserError(
            "--pairs: completion and translation need the package babel; pip install 'mtllm-ds[sdrrl]'"
        ) from error
    code = check_language(language)
    short = {full: alias for alias, full in ALIASES.items() if "_" not in alias and "-" not in alias}
    names = Locale("en").languages
    return names.get(short.get(code, "")) or names.get(code.split("_")[0]) or code
