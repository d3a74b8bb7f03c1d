"""Where the words of code-switching come from: a file, a translator asked word by word, FreeDict, or aligned parallel text.

FILE.tsv         word, a tab, its translation (plain or compressed)
translator       the translator of the language, asked for every word of the questions (of Apertium: its dictionary, inflected)
freedict:NAME    FreeDict's dictionary as Debian installs it, such as freedict:eng-spa (package dict-freedict-eng-spa)
aligned          the parallel text, aligned by eflomal (Östling and Tiedemann, 2016)
"""

from __future__ import annotations

import gzip
import re
import shutil
import string
import subprocess
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from mtllm_ds.errors import UserError
from mtllm_ds.text_files import decoded, lines_of
from mtllm_ds.transfer_sets.sdrrl.code_switching import WORD

FREEDICT = "freedict:"
DICTIONARIES = Path("/usr/share/dictd")
_BASE64 = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
_FEWEST_LINKS = 2
_SURE_SHARE = 0.5
"""Of a word's links that its translation must have."""


def usable(pairs: Mapping[str, str]) -> dict[str, str]:
    """Lower-cased entries of one word whose translation is one or two other words; the others cannot stand in its place."""
    found: dict[str, str] = {}
    for word, given in pairs.items():
        translation = given.strip().lower()
        english = word.strip().lower()
        words = translation.split()
        if WORD.fullmatch(english) and 1 <= len(words) <= 2 and all(map(_is_word, words)) and translation != english:
            found.setdefault(english, translation)
    return found


def read_lexicon(path: str) -> dict[str, str]:
    """A TSV file; of several translations of a word the first counts.

    Raises:
        UserError: no such file, a line without two columns, or no entry that can be used.
    """
    if not Path(path).is_file():
        raise UserError(f"--lexicon={path}: no such file; give word, tab, translation in each line")
    pairs: dict[str, str] = {}
    for place, line in lines_of(path):
        cells = decoded(place, line).split("\t")
        if len(cells) < 2:
            raise UserError(f"{place}: no tab; a line of a lexicon is a word, a tab and its translation")
        pairs.setdefault(cells[0], cells[1])
    return _some(usable(pairs), path)


def read_freedict(name: str) -> dict[str, str]:
    """A dictionary in dictd's format, by the name of its pair; words with several entries are left out, of senses the first counts.

    Raises:
        UserError: it is not installed.
    """
    base = DICTIONARIES / f"freedict-{name}"
    if not base.with_suffix(".index").is_file():
        raise UserError(
            f"--lexicon={FREEDICT}{name}: {base}.index is not there; on Debian: apt-get install dict-freedict-{name}"
        )
    text = gzip.decompress(base.with_suffix(".dict.dz").read_bytes())
    places: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for line in base.with_suffix(".index").read_text(encoding="utf-8").splitlines():
        word, *place = line.split("\t")
        places[word].append((_number(place[0]), _number(place[1])))
    pairs = {}
    for word, ((start, length), *others) in places.items():
        lines = text[start : start + length].decode("utf-8", "replace").splitlines()
        if not others and len(lines) > 1:
            pairs[word] = re.split(r"[,;(]", re.sub(r"^\s*1\.\s*", "", lines[1]))[0]
    return _some(usable(pairs), f"{FREEDICT}{name}")


def aligned_lexicon(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The translation that a word is aligned with most often, by eflomal both ways; words with one clear translation only.

    eflomal draws from the clock: the lexicon is kept, not made again.

    Args:
        pairs: (English, translation) of sentences

    Raises:
        UserError: eflomal is not installed or fails, or there is too little text.
    """
    program = shutil.which("eflomal-align")
    if program is None:
        raise UserError(
            "--lexicon=aligned: eflomal-align is not on the PATH; pip install eflomal (GPL; wants a C compiler)"
        )
    words = [tuple([word.lower() for word in WORD.findall(text)] for text in pair) for pair in pairs]
    words = [sides for sides in words if all(sides)]
    with TemporaryDirectory() as folder:
        names = {option: Path(folder) / option for option in "stfr"}
        for side, option in enumerate("st"):
            names[option].write_text("".join(f"{' '.join(sides[side])}\n" for sides in words), encoding="utf-8")
        arguments = [text for option, path in names.items() for text in (f"-{option}", str(path))]
        done = subprocess.run([program, *arguments], capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"--lexicon=aligned: eflomal-align failed ({done.stderr.strip()[-200:]}); try it by hand")
        there, back = (names[option].read_text().splitlines() for option in "fr")
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for (english, foreign), *links in zip(words, there, back, strict=True):
        for link in set(links[0].split()) & set(links[1].split()):
            i, j = map(int, link.split("-"))
            counts[english[i]][foreign[j]] += 1
    clear = {word: found.most_common(1)[0] for word, found in counts.items()}
    sure = {
        word: translation
        for word, (translation, times) in clear.items()
        if times >= max(_FEWEST_LINKS, _SURE_SHARE * counts[word].total())
    }
    return _some(usable(sure), "aligned")


def _is_word(text: str) -> bool:
    """Letters of any script with their marks (vowel signs are no letters to `re`), apostrophes and hyphens."""
    kinds = {unicodedata.category(character)[0] for character in text if character not in "'’-"}  # noqa: RUF001
    return "L" in kinds and kinds <= {"L", "M"}


def _some(lexicon: dict[str, str], name: str) -> dict[str, str]:
    if not lexicon:
        raise UserError(f"--lexicon={name}: no entry of one word can be used; give another")
    return lexicon


def _number(digits: str) -> int:
    value = 0
    for digit in digits:
        value = 64 * value + _BASE64.index(digit)
    return value
