"""Faults put into real ranks: what ends, within which time, with which words, and what is left of the run."""
