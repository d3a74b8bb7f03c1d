"""Ranks, agreement between them, and the only door to ZeRO."""
