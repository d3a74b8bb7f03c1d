"""A tokenizer of one's own, trained on text of one language or, sampled by a temperature, of many.

What is written is an ordinary folder that `AutoTokenizer` loads: a pure function of the files and the settings, on any number of
threads. The files are read twice, for each language's size and for the sample; by WordPiece once more, for the characters.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mtllm_ds import atomic
from mtllm_ds.data.writing.output import check_output
from mtllm_ds.data.writing.sources import InputFile, SourceReader
from mtllm_ds.draws import uniform
from mtllm_ds.errors import UserError
from mtllm_ds.languages import has_word_spaces

Algorithm = Literal["wordpiece", "bpe", "unigram"]
Use = Literal["masked", "causal"]
Progress = Callable[[str, int, int], None]
"""(what is being done, bytes of the files read, bytes in all)"""

REPORT_NAME = "tokenizer_training.json"
_SPECIALS: Mapping[Use, Mapping[str, str]] = {
    "masked": {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
    "causal": {"pad": "<pad>", "unk": "<unk>", "bos": "<bos>", "eos": "<eos>"},
}
_LONGEST_WORD = 1000
"""Characters of a WordPiece word. The usual 100 makes one unknown token of a line of Khmer or Lao."""
_UNSPELT_STEP = 1e-4
_MEASURED_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    """What a tokenizer is trained on and to be."""

    inputs: tuple[InputFile, ...]
    algorithm: Algorithm = "wordpiece"
    """`bpe` works on bytes and so knows every text; the others have an unknown token for rare characters."""
    use: Use = "masked"
    """`masked`: `[CLS] x [SEP]` and a mask token, as BERT has it; `causal`: `<bos> x`, and `<eos>`."""
    vocab_size: int = 32_000
    """Pieces and special tokens together; fewer where the text holds no more."""
    temperature: float = 3.0
    """A language has a share of the sample by its bytes to the power 1/temperature; 1 is proportional."""
    sample_bytes: int = 256 << 20
    """Bytes of text that are learned from; a language with less than its share is repeated."""
    unicode_form: Literal["nfc", "nfkc", "none"] = "nfc"
    lowercase: bool = False
    strip_accents: bool = False
    seed: int = 0


@dataclass(frozen=True)
class LanguageFigures:
    """How a vocabulary treats a language, on the first megabyte of its text."""

    text_bytes: int
    """of all its text"""
    sampled_share: float
    """of the sample that was learned from"""
    unit: Literal["word", "character"]
    """characters where the script puts no blanks between words"""
    tokens_per_unit: float
    tokens_per_byte: float
    unknown_share: float
    """of its tokens"""


def train_tokenizer(
    settings: TokenizerSettings, output: Path, progress: Progress = lambda *_: None
) -> dict[str, LanguageFigures]:
    """Train, write the folder with its figures (`tokenizer_training.json`), and return them by language.

    A folder that was made of the same files with the same settings stays, and its figures are returned.

    Raises:
        UserError: the folder holds something else, an input cannot be read, or the vocabulary has no room for the characters.
    """
    check_output(output)
    if (output / REPORT_NAME).is_file():
        return _figures_of_same(settings, output)
    if any(output.iterdir()):
        raise UserError(f"--output={output}: is there already; remove it or choose another folder")
    output.rmdir()  # until it is whole
    sizes: Counter[str] = Counter()
    heads: dict[str, list[str]] = {}
    for language, text in _texts(settings.inputs, "reading", progress):
        if sizes[language] < _MEASURED_BYTES:
            heads.setdefault(language, []).append(text)
        sizes[language] += len(text.encode())
    if not sizes:
        raise UserError(f"--input={settings.inputs[0].path}: holds no text; give a file that does")
    copies = copies_by_language(sizes, settings.temperature, settings.sample_bytes)
    sampled: Counter[str] = Counter()

    def sample() -> Iterator[str]:
        sampled.clear()
        yield from _sample(settings, copies, sampled, progress)

    backend = _learned(settings, sample)
    named = {f"{name}_token": token for name, token in _specials(settings).items()}
    figures = {code: _figures(backend, code, heads[code], sizes[code], sampled, named) for code in sorted(sizes)}
    _write(settings, backend, named, figures, output)
    return figures


def copies_by_language(sizes: Mapping[str, int], temperature: float, sample_bytes: int) -> dict[str, float]:
    """How often each line of a language enters a sample of so many bytes (at most as many as there are).

    Shares follow bytes ** (1 / temperature), relative to the largest so that no power overflows.
    """
    largest = max(sizes.values())
    weights = {code: (size / largest) ** (1 / temperature) for code, size in sizes.items()}
    total = min(sample_bytes, sum(sizes.values()))
    return {code: total * weights[code] / sum(weights.values()) / size for code, size in sizes.items()}


def _texts(inputs: Iterable[InputFile], what: str, progress: Progress) -> Iterator[tuple[str, str]]:
    """(language, text) of every document that is not blank."""
    readers = [SourceReader(source) for source in inputs]
    total = sum(reader.bytes_total for reader in readers)
    before = 0
    for reader in readers:
        for document in reader:
            if text := " ".join(filter(None, document.segments)):
                yield document.language, text
            progress(what, before + reader.bytes_read, total)
        before += reader.bytes_total


def _sample(
    settings: TokenizerSettings, copies: Mapping[str, float], sampled: Counter[str], progress: Progress
) -> Iterator[str]:
    """Lines to learn from: each as often as its language's copies say, a fraction drawn by its number; counts bytes."""
    codes = sorted(copies)
    numbers: Counter[str] = Counter()
    for language, text in _texts(settings.inputs, "sampling", progress):
        drawn = uniform(settings.seed, codes.index(language), numbers[language])
        numbers[language] += 1
        whole, fraction = divmod(copies[language], 1)
        for _ in range(int(whole) + (drawn < fraction)):
            sampled[language] += len(text.encode())
            yield text


def _learned(settings: TokenizerSettings, sample: Callable[[], Iterator[str]]) -> Any:
    """The trained `tokenizers.Tokenizer`, with normalisation, template and decoder."""
    train = {"wordpiece": _wordpiece, "bpe": _byte_bpe, "unigram": _unigram}[settings.algorithm]
    try:
        backend = train(settings, sample)
    except UserError:
        raise
    except Exception as error:  # tokenizers has no class of its own for what its trainers refuse
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--vocab-size={settings.vocab_size}: does not go with this text ({reason}); change it"
        ) from error
    backend.post_processor = _template(settings.use, backend)
    return backend


def _wordpiece(settings: TokenizerSettings, sample: Callable[[], Iterator[str]]) -> Any:
    """Its trainer numbers characters inside words in the order of a hash map, and breaks ties by these numbers.

    So they are numbered before it, as if they were special tokens, and afterwards are none.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    specials = list(_specials(settings).values())
    normalizer, splitter = _normalizer(settings), pre_tokenizers.BertPreTokenizer()
    characters: Counter[str] = Counter()
    inside: set[str] = set()
    for text in sample():
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)):
            characters.update(word)
            inside.update(word[1:])
    alphabet = _alphabet(characters, inside, (settings.vocab_size - len(specials)) // 2)
    backend = Tokenizer(models.WordPiece(unk_token=_specials(settings)["unk"], max_input_chars_per_word=_LONGEST_WORD))
    backend.normalizer, backend.pre_tokenizer, backend.decoder = normalizer, splitter, decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=settings.vocab_size, special_tokens=[*specials, *alphabet], limit_alphabet=0, show_progress=False
    )
    backend.train_from_iterator(sample(), trainer)
    state = json.loads(backend.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in specials]
    return Tokenizer.from_str(json.dumps(state))


def _alphabet(characters: Counter[str], inside: set[str], room: int) -> list[str]:
    """The most frequent characters whose pieces (`c`, and `##c` where it stands inside words) find room, in order."""
    pieces: list[str] = []
    for character in sorted(characters, key=lambda one: (-characters[one], one)):
        own = [character, *(f"##{character}" for _ in inside & {character})]
        if len(pieces) + len(own) > room:
            break
        pieces += own
    return sorted(pieces)


def _byte_bpe(settings: TokenizerSettings, sample: Callable[[], Iterator[str]]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    specials, alphabet = list(_specials(settings).values()), pre_tokenizers.ByteLevel.alphabet()
    if settings.vocab_size < len(specials) + len(alphabet):
        raise UserError(
            f"--vocab-size={settings.vocab_size}: bytes alone take {len(specials) + len(alphabet)}; raise it"
        )
    backend = Tokenizer(models.BPE())
    backend.normalizer, backend.decoder = _normalizer(settings), decoders.ByteLevel()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(sample(), trainer)
    return backend


def _unigram(settings: TokenizerSettings, sample: Callable[[], Iterator[str]]) -> Any:
    """Its trainer sums in the order of a hash map: the last digits of scores are chance, and so is who has which of the last ones.

    (Characters that no piece spells get the lowest score, each a ten-thousandth less than the one before, in that order.)
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    specials = _specials(settings)
    backend = Tokenizer(models.Unigram())
    backend.normalizer, backend.decoder = _normalizer(settings), decoders.Metaspace()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=settings.vocab_size, special_tokens=list(specials.values()), unk_token=specials["unk"], show_progress=False
    )  # fmt: skip
    backend.train_from_iterator(sample(), trainer)
    state = json.loads(backend.to_str())
    vocab = [(piece, round(score, 6)) for piece, score in state["model"]["vocab"]]
    pieces = sorted(vocab[len(specials) :], key=lambda piece: (-piece[1], piece[0]))
    last = len(pieces) - 1
    while last > 0 and len(pieces[last - 1][0]) == 1 and pieces[last - 1][1] - pieces[last][1] < 1.5 * _UNSPELT_STEP:
        last -= 1
    names, scores = sorted(piece for piece, _ in pieces[last:]), [score for _, score in pieces[last:]]
    state["model"]["vocab"] = [*vocab[: len(specials)], *pieces[:last], *zip(names, scores, strict=True)]
    return Tokenizer.from_str(json.dumps(state))


def _specials(settings: TokenizerSettings) -> dict[str, str]:
    """Special tokens by role; on bytes nothing is unknown. A vocabulary without room for them and a few pieces is refused."""
    specials = dict(_SPECIALS[settings.use])
    if settings.algorithm == "bpe":
        del specials["unk"]
    if settings.vocab_size < 2 * len(specials):
        raise UserError(f"--vocab-size={settings.vocab_size}: special tokens take {len(specials)}; raise it")
    return specials


def _normalizer(settings: TokenizerSettings) -> Any:
    """Unicode form, then what WordPiece wants (no control characters, blanks around Chinese characters), then what is left out."""
    from tokenizers import normalizers

    steps: list[Any] = []
    if settings.unicode_form != "none":
        steps.append(normalizers.NFC() if settings.unicode_form == "nfc" else normalizers.NFKC())
    if settings.algorithm == "wordpiece":
        steps.append(
            normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, lowercase=False, strip_accents=False)
        )
    if settings.lowercase:
        steps.append(normalizers.Lowercase())
    if settings.strip_accents:
        steps += [normalizers.NFD(), normalizers.StripAccents(), normalizers.NFC()]
    return normalizers.Sequence(steps)


def _template(use: Use, backend: Any) -> Any:
    from tokenizers import processors

    single, pair, names = {
        "masked": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ("[CLS]", "[SEP]")),
        "causal": ("<bos> $A", "<bos> $A <bos>:1 $B:1", ("<bos>",)),
    }[use]
    ids = [(name, backend.token_to_id(name)) for name in names]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)


def _figures(
    backend: Any, language: str, texts: list[str], text_bytes: int, sampled: Counter[str], named: Mapping[str, str]
) -> LanguageFigures:
    encoded = backend.encode_batch_fast(texts, add_special_tokens=False)
    num_tokens = sum(len(one.ids) for one in encoded)
    unknown = backend.token_to_id(named["unk_token"]) if "unk_token" in named else None
    spaced = has_word_spaces(language)
    num_units = sum(len(text.split()) if spaced else len("".join(text.split())) for text in texts)
    return LanguageFigures(
        text_bytes=text_bytes,
        sampled_share=sampled[language] / max(1, sampled.total()),
        unit="word" if spaced else "character",
        tokens_per_unit=num_tokens / num_units,
        tokens_per_byte=num_tokens / sum(len(text.encode()) for text in texts),
        unknown_share=sum(one.ids.count(unknown) for one in encoded) / num_tokens,
    )


def _write(
    settings: TokenizerSettings,
    backend: Any,
    named: Mapping[str, str],
    figures: Mapping[str, LanguageFigures],
    output: Path,
) -> None:
    from transformers import PreTrainedTokenizerFast  # seconds to import

    report = {
        **_made_of(settings),
        "vocab_size": backend.get_vocab_size(),
        "languages": {code: asdict(own) for code, own in figures.items()},
    }
    with atomic.new_folder(output) as folder:
        PreTrainedTokenizerFast(tokenizer_object=backend, **named).save_pretrained(folder)
        atomic.write_json(folder / REPORT_NAME, report)


def _made_of(settings: TokenizerSettings) -> dict[str, Any]:
    """All that a folder depends on."""
    return {
        "settings": {name: value for name, value in asdict(settings).items() if name != "inputs"},
        "fields": [asdict(source) for source in settings.inputs],
        "inputs": {source.path: atomic.sha256_file(Path(source.path)) for source in settings.inputs},
    }


def _figures_of_same(settings: TokenizerSettings, output: Path) -> dict[str, LanguageFigures]:
    """Of the folder that is there, if it was made of the same."""
    kept = json.loads((output / REPORT_NAME).read_text(encoding="utf-8"))
    for name, value in json.loads(json.dumps(_made_of(settings))).items():
        if kept.get(name) != value:
            raise UserError(f"--output={output}: was made of other {name}; remove it or choose another folder")
    return {code: LanguageFigures(**own) for code, own in kept["languages"].items()}
