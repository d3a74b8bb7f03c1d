"""Base models: a tiny MT model and a tiny Llama, their tokenizers, losses and cards."""
