"""Text to ids for both sides of the stack: the MT encoder's tokenizer and the LLM's, each with an explicit template.

Segments are tokenized without special tokens, and the template adds them. Thus a text that happens to contain `</s>` or
`deu_Latn` stays text, and an unknown language tag raises instead of turning into `<unk>` without a word.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from mtllm_ds.config.gguf import gguf_options
from mtllm_ds.config.hub import require_reachable
from mtllm_ds.config.names import is_missing_folder, resolve_model_name
from mtllm_ds.errors import UserError
from mtllm_ds.languages import ALIASES, FLORES_200, check_language, nearest_code

TAG = "[src]"
"""Stands in a template for the language tag."""

MIN_MAX_LENGTH = 8
_ISO_CODES = {code: alias for alias, code in reversed(ALIASES.items()) if "_" not in alias and "-" not in alias}
_NLLB_SPELLING = {"sat_Olck": "sat_Beng"}
_FAMILY_OF_CLASS = {"Nllb": "nllb", "M2M100": "m2m100", "T5": "t5", "MT5": "t5", "XLMRoberta": "xlm-r", "Bert": "bert"}
_FAMILY_OF_MODEL = {"m2m_100": "nllb", "nllb-moe": "nllb", "t5": "t5", "mt5": "t5", "umt5": "t5"} | {
    "xlm-roberta": "xlm-r",
    "bert": "bert",
    **dict.fromkeys(("roberta", "modernbert", "eurobert", "gte", "new", "t5gemma", "t5gemma2"), "own"),
}


@dataclass(frozen=True, kw_only=True)
class TokenizerSpec:
    """Which tokenizer reads a side. `name`: hub name, local folder or `package:NAME/FOLDER`; `auto` tells the family from files."""

    name: str
    revision: str | None = None
    side: Literal["encoder", "llm"]
    family: str = "auto"
    max_length: int = 512
    """Most tokens a sample may have on this side, special tokens included."""
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.max_length < MIN_MAX_LENGTH:
            raise UserError(
                f"max_length={self.max_length} of the {self.side}: too short; set at least {MIN_MAX_LENGTH}"
            )


class Template(NamedTuple):
    """Special tokens around segments: prefix, A, between, B, ..., suffix."""

    prefix: tuple[str, ...]
    between: tuple[str, ...]
    suffix: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join((*self.prefix, "A", *self.between, "B", *self.suffix))

    def num_special_tokens(self, num_segments: int) -> int:
        return len(self.prefix) + (num_segments - 1) * len(self.between) + len(self.suffix)


class SegmentTokens(NamedTuple):
    """Ids of one segment without special tokens; token i reads the characters `starts[i]` to `ends[i]`."""

    ids: list[int]
    ends: list[int]
    starts: list[int] | None = None
    """None where the tokenizer tells no offsets; `ends` are then spread evenly"""


class TextTokenizer:
    """One side's tokenizer. Call it with the segments of a sample and its language to get ids with special tokens."""

    def __init__(self, spec: TokenizerSpec, tokenizer: Any, family: str) -> None:
        self.spec = spec
        self.family = family
        self._tokenizer = tokenizer
        if tokenizer.is_fast:
            backend = tokenizer.backend_tokenizer
            backend.no_truncation()
            backend.no_padding()
            backend.encode_special_tokens = True  # a text that spells a special token stays text
        self._folds_blanks = tokenizer.is_fast and _reads_only_spaces(backend)
        self.template = _template(family, tokenizer)
        self.pad_id: int = next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)
        self._vocab: dict[str, int] = tokenizer.get_vocab()
        self._special_ids = {token: self._id(token) for part in self.template for token in part if token != TAG}
        self._tag_ids = self._known_tags()
        self.blank_ids = frozenset(self._vocab[piece] for piece in ("▁", "Ġ") if piece in self._vocab)
        """Tokens that spell nothing but the blank before a word"""
        self.unknown_id: int | None = tokenizer.unk_token_id
        self.language_codes: tuple[str, ...] = tuple(sorted(self._tag_ids))
        """FLORES-200 codes this tokenizer has a tag for; empty where the family needs none."""
        self.vocab_size: int = max(len(tokenizer), *(i + 1 for i in self._tag_ids.values()), 1)
        """No id is as large."""
        self.fingerprint = _fingerprint(tokenizer, family, self.template, self._special_ids, self._folds_blanks)

    @property
    def pretrained(self) -> Any:
        """The tokenizer itself, as transformers has it."""
        return self._tokenizer

    @property
    def has_offsets(self) -> bool:
        """Whether it tells which characters a token reads."""
        return bool(self._tokenizer.is_fast)

    @property
    def has_chat_template(self) -> bool:
        """Whether it says how messages are read."""
        return bool(self._tokenizer.chat_template)

    def __call__(self, segments: Sequence[str], language: str | None) -> list[int]:
        """Ids of one sample, special tokens included, never truncated."""
        return self.join([tokens.ids for tokens in self.tokenize(segments)], language)

    def tokenize(self, texts: Sequence[str]) -> list[SegmentTokens]:
        """Each text on its own, without special tokens."""
        if self._tokenizer.is_fast:
            if self._folds_blanks:
                texts = [_BLANK.sub(" ", text) for text in texts]
            encodings = self._tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)
            return [
                SegmentTokens(e.ids, [end for _, end in e.offsets], [start for start, _ in e.offsets])
                for e in encodings
            ]
        return [self._tokenize_without_offsets(text) for text in texts]

    def continuation(self, text: str) -> list[int]:
        """Ids of a text that goes on with another, without special tokens: a blank in front of it is not counted twice where the
        tokenizer puts one before every text."""
        (first, *_) = self._tokenizer.convert_ids_to_tokens(self.tokenize(["a"])[0].ids)
        return self.tokenize([text.removeprefix(" ") if first.startswith("▁") else text])[0].ids

    def join(self, segment_ids: Sequence[Sequence[int]], language: str | None) -> list[int]:
        """Put the template around ids of segments."""
        if TAG in self.template.prefix:
            self.check_tag(language)
        ids = self._specials(self.template.prefix, language)
        for position, segment in enumerate(segment_ids):
            if position:
                ids += self._specials(self.template.between, language)
            ids += segment
        return ids + self._specials(self.template.suffix, language)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """What each token reads, special tokens too."""
        return [str(self._tokenizer.decode([token])) for token in ids]

    def id_of(self, token: str, setting: str) -> int:
        """Id of a token of the vocabulary; `setting` names what asked for it in the error."""
        if token not in self._vocab:
            raise UserError(
                f"{setting}={token}: the tokenizer '{self.spec.name}' has no such token; name one that it has"
            )
        return self._vocab[token]

    def check_tag(self, language: str | None) -> str | None:
        """The FLORES-200 code of `language`; raises UserError where this tokenizer needs a tag and has none for it."""
        code = check_language(language) if language is not None else None
        if TAG not in self.template.prefix or code in self._tag_ids:
            return code
        if code is None:
            raise UserError(f"tokenizer {self.spec.name}: needs a language tag; give one such as 'eng_Latn'")
        known = self.language_codes
        hint = (
            f"it knows {', '.join(known) or 'none'}"
            if len(known) < 20
            else f"the nearest it knows is '{nearest_code(code, known)}'"
        )
        raise UserError(f"tokenizer {self.spec.name}: has no tag for language '{code}'; {hint}")

    def _specials(self, tokens: tuple[str, ...], language: str | None) -> list[int]:
        return [
            self._tag_ids[check_language(language)] if t == TAG and language else self._special_ids[t] for t in tokens
        ]

    def _id(self, token: str) -> int:
        if token not in self._vocab:
            raise UserError(
                f"tokenizer {self.spec.name}: has no token '{token}', which the template of family '{self.family}' "
                "needs; choose another family"
            )
        return self._vocab[token]

    def _known_tags(self) -> dict[str, int]:
        if TAG not in self.template.prefix:
            return {}
        known = self._vocab
        if self.family == "m2m100":  # its tags are not in its vocabulary
            known = {**known, **getattr(self._tokenizer, "lang_token_to_id", {})}
            spelling = {code: f"__{iso}__" for code, iso in _ISO_CODES.items()}
        else:
            spelling = {code: code if code in known else _NLLB_SPELLING.get(code, code) for code in FLORES_200}
        return {code: known[token] for code, token in spelling.items() if token in known}

    def _tokenize_without_offsets(self, text: str) -> SegmentTokens:
        """Slow tokenizers tell no offsets: spread the tokens evenly; `encode_documents` checks every cut anyway."""
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        return SegmentTokens(ids, [len(text) * (i + 1) // len(ids) for i in range(len(ids))])


def load_text_tokenizer(spec: TokenizerSpec) -> TextTokenizer:
    """Load the tokenizer a spec names.

    Raises:
        UserError: there is no such tokenizer, or its family can neither be told nor served.
    """
    tokenizer = pretrained_tokenizer(spec)
    return TextTokenizer(spec, tokenizer, family_of(spec, tokenizer))


def pretrained_tokenizer(spec: TokenizerSpec) -> Any:
    """The tokenizer that a spec names as transformers has it; `UserError` where there is none."""
    from transformers import AutoTokenizer  # seconds to import: only where it is used

    name = resolve_model_name(spec.name)
    require_reachable(name, spec.side)
    if is_missing_folder(name):
        raise UserError(f"tokenizer {spec.name}: the folder does not exist; give a folder or a hub name")
    try:
        return AutoTokenizer.from_pretrained(
            name, revision=spec.revision, trust_remote_code=spec.trust_remote_code, **gguf_options(name)
        )
    except (OSError, ValueError, KeyError) as error:
        if not spec.trust_remote_code and "trust_remote_code" in str(error):
            raise UserError(
                f"tokenizer {spec.name}: brings code of its own; "
                f"set model.{spec.side}.trust_remote_code=true if you trust it"
            ) from error
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"tokenizer {spec.name}: there is none ({reason}); give a folder or a hub name") from error


def family_of(spec: TokenizerSpec, tokenizer: Any) -> str:
    """The family whose template a tokenizer takes: the one that the spec names, or what its class or model tells.

    Raises:
        UserError: there is no such family, or an encoder's cannot be told.
    """
    if spec.family != "auto":
        if spec.family not in _TEMPLATES:
            raise UserError(
                f"{spec.side} family={spec.family}: unknown family of tokenizers; use one of {', '.join(_TEMPLATES)}"
            )
        return spec.family
    family = _FAMILY_OF_CLASS.get(type(tokenizer).__name__.removesuffix("Fast").removesuffix("Tokenizer"))
    if family is None:
        family = _FAMILY_OF_MODEL.get(_model_type(spec))
    if family == "t5" and "<2en>" in tokenizer.get_vocab():
        return "madlad"
    if family is None and spec.side == "encoder":
        raise UserError(
            f"tokenizer {spec.name}: cannot tell the family of the encoder's tokenizer ({type(tokenizer).__name__}); "
            f"set it to one of {', '.join(_TEMPLATES)}"
        )
    if family is None and tokenizer.bos_token is None and tokenizer.cls_token and tokenizer.sep_token:
        return "bert"  # a tokenizer without a model beside it, as `prepare tokenizer` writes it for masked LMs
    return family or "decoder"


def _model_type(spec: TokenizerSpec) -> str:
    """`model_type` of the configuration beside the tokenizer, empty where there is none."""
    from transformers import PreTrainedConfig

    try:
        config, _ = PreTrainedConfig.get_config_dict(resolve_model_name(spec.name), revision=spec.revision)
    except OSError:
        return ""
    return config.get("model_type", "")


_TEMPLATES: dict[str, Template] = {
    "nllb": Template((TAG,), (), ("{eos}",)),
    "m2m100": Template((TAG,), (), ("{eos}",)),
    "t5": Template((), ("{eos}",), ("{eos}",)),
    "madlad": Template(("<2en>",), ("{eos}",), ("{eos}",)),
    "xlm-r": Template(("{bos}",), ("{eos}", "{eos}"), ("{eos}",)),
    "bert": Template(("{cls}",), ("{sep}",), ("{sep}",)),
    "decoder": Template(("{bos}",), ("{bos}",), ()),
    "own": Template((), (), ()),
}
"""By family; `own` stands for whatever the tokenizer adds by itself."""


def _template(family: str, tokenizer: Any) -> Template:
    """The family's template with this tokenizer's own spelling of the special tokens."""
    named = {f"{{{name}}}": getattr(tokenizer, f"{name}_token") for name in ("bos", "eos", "cls", "sep")}
    if family == "own":
        return _own_template(tokenizer)
    if family == "decoder" and named["{bos}"] is None:  # Qwen has no <bos>: segments are parted by its end of text
        return Template((), (named["{eos}"],) if named["{eos}"] else (), ())
    prefix, between, suffix = (tuple(named.get(token, token) or token for token in part) for part in _TEMPLATES[family])
    return Template(prefix, between, suffix)


def _own_template(tokenizer: Any) -> Template:
    """What the tokenizer itself puts around a text and between two."""
    first, second = (list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in ("one", "two"))
    around, both = (list(tokenizer(*texts)["input_ids"]) for texts in (("one",), ("one", "two")))
    start = next(at for at in range(len(around) + 1) if around[at : at + len(first)] == first)
    prefix, suffix = around[:start], around[start + len(first) :]
    end = len(both) - len(suffix) - len(second)
    between = both[start + len(first) : end]
    return Template(*(tuple(tokenizer.convert_ids_to_tokens(part)) for part in (prefix, between, suffix)))


_BLANK = re.compile(r"\s")


def _reads_only_spaces(backend: Any) -> bool:
    """Does it part words at spaces alone, so that a line break would be no known piece?

    SentencePiece's own normalization turns all white space into spaces; transformers 5 builds NLLB's tokenizer without it. Llama 2
    and Mistral have no such normalization by design: a line break is a token (or a byte) of theirs.
    """
    if backend.normalizer is not None or backend.pre_tokenizer is None:
        return False
    if getattr(backend.model, "byte_fallback", False) or "\n" in backend.get_vocab():
        return False
    state = json.loads(backend.pre_tokenizer.__getstate__())
    first = state["pretokenizers"][0] if state["type"] == "Sequence" else state
    return first["type"] == "Metaspace"


def _fingerprint(
    tokenizer: Any, family: str, template: Template, special_ids: dict[str, int], folds_blanks: bool
) -> str:
    """sha256 of all that decides ids: vocabulary, merges, normalization, special tokens, template."""
    if tokenizer.is_fast:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        rules = {key: state.get(key) for key in ("model", "normalizer", "pre_tokenizer", "added_tokens")}
    else:
        pieces = getattr(tokenizer, "sp_model", None)
        model = hashlib.sha256(pieces.serialized_model_proto()).hexdigest() if pieces is not None else ""
        rules = {"class": type(tokenizer).__name__, "vocab": tokenizer.get_vocab(), "model": model}
    decisive = {"rules": rules, "family": family, "template": template, "special_ids": special_ids}
    if folds_blanks:
        decisive["blanks"] = "folded"
    canonical = json.dumps(decisive, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
