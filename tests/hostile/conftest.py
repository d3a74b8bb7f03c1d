from tests.data.conftest import specs, tokenizer_folders  # noqa: F401
