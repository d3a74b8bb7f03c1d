"""The quality benchmark: base models made from help text, and what is measured on them."""
