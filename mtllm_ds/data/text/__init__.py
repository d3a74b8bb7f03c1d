"""Text to ids: tokenizers, templates, items of tasks, cutting."""
