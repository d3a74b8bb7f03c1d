"""The stack: a frozen MT encoder, a connector, a frozen LLM with LoRA."""
