"""What a model makes of prompts: what given responses are worth to it, and what its own are like."""
