"""Exports inside other people's libraries; each file needs its library, which is an optional extra."""
