"""One classifier, taught in English, asked in several languages at once.

python examples/classify_in_many_languages.py my_classifier
"""

import sys

from mtllm_ds import MTLLM

TEXTS = {
    "eng_Latn": "The cell range is sorted by the first column.",
    "deu_Latn": "Der Zellbereich wird nach der ersten Spalte sortiert.",
    "fra_Latn": "La plage de cellules est triée selon la première colonne.",
}


def main(folder: str) -> None:
    model = MTLLM.from_pretrained(folder)
    labels = model.classify(list(TEXTS.values()), lang=list(TEXTS))
    for (language, text), label in zip(TEXTS.items(), labels, strict=True):
        print(f"{language}  {label:8}  {text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
