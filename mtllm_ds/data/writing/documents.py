"""Documents to samples: one text that both sides read (or the only one), or a translation for the encoder and its original for
the LLM.

Two texts are cut each where its own side is full: nothing tells which part of one belongs to which of the other, so texts that
fit are the ones to train on.
"""

from collections.abc import Sequence

from mtllm_ds.data.text.cutting import EncodedSample, LongDocuments, encode_documents
from mtllm_ds.data.text.task_encoding import fit_item
from mtllm_ds.data.text.tokenization import TextTokenizer
from mtllm_ds.data.writing.sources import Document


def read_documents(
    sides: Sequence[TextTokenizer],
    documents: Sequence[Document],
    language: str,
    long_documents: LongDocuments = "truncate",
) -> list[list[EncodedSample]]:
    """Samples of each document, all of one language; more than one only under `split`.

    Raises:
        UserError: the encoder's tokenizer has no tag for the language, or a document of several segments is to be split.
    """
    alike = [document.segments for document in documents if document.llm_text is None]
    encoded = iter(encode_documents(sides, alike, language, long_documents))
    return [
        next(encoded)
        if document.llm_text is None
        else [_translation(sides, document.segments[0], document.llm_text, language)]
        for document in documents
    ]


def _translation(sides: Sequence[TextTokenizer], text: str, original: str, language: str) -> EncodedSample:
    encoder, llm = sides
    own = fit_item((encoder,), (text,), (), language, (encoder.spec.max_length,))
    other = fit_item((llm,), (original,), (), language, (llm.spec.max_length,))
    ids = {"encoder": own.sides[0].ids, "llm": other.sides[0].ids}
    return EncodedSample(ids, own.segments, own.is_cut or other.is_cut, other.segments[0])
