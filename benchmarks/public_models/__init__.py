"""Small public models, real ones, made from packages of PyPI: no model hub needed."""
