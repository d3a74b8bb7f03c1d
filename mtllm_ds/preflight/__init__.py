"""The plan of a run: everything that can be checked before a weight is loaded, and what may change when a run resumes."""
