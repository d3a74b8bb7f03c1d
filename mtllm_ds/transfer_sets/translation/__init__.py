"""Texts in other languages: sentence by sentence, by an MT model or by a command, cached on disk, over ranks."""
