"""SDRRL (Zhang et al., ACL 2024, arXiv 2402.12204): an LLM's own English answers, in other languages, as dialogues to learn from.

Stage by stage in one folder, each readable and resumable: instructions, answers, translations, dialogues (`pipeline.py`).
"""
