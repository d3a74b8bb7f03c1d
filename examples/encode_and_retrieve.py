"""Find English texts by German questions: encode both, compare by cosine.

python examples/encode_and_retrieve.py my_model
"""

import sys

from torch.nn.functional import normalize

from mtllm_ds import MTLLM

DOCUMENTS = ["Insert a table into the document.", "Save the file under another name.", "Print selected pages only."]
QUESTIONS = ["Wie drucke ich einzelne Seiten?", "Wie füge ich eine Tabelle ein?"]


def main(folder: str) -> None:
    model = MTLLM.from_pretrained(folder)
    documents = model.encode(DOCUMENTS, lang="eng_Latn")
    questions = model.encode(QUESTIONS, lang="deu_Latn")
    # Each side's mean holds what its language has in common; without it, cosines compare what the texts say.
    documents, questions = (normalize(side - side.mean(0), dim=-1) for side in (documents, questions))
    cosines = questions @ documents.T
    for question, row in zip(QUESTIONS, cosines, strict=True):
        print(f"{question}  ->  {DOCUMENTS[int(row.argmax())]}  ({row.max():.2f})")


if __name__ == "__main__":
    main(*sys.argv[1:])
