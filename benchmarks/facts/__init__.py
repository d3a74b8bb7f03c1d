"""Facts about countries, asked in many languages: what an English LLM knows, and can be asked by whom an encoder reads for."""
