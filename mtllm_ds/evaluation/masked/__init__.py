"""Masked language models scored on plain text: every token is masked once."""
