# Generative stacking on two real, small models: from packages and help text to report.html and a verdict. A killed run goes on;
# BUDGET=smoke shows in minutes that all steps work. HELP_TEXT is what `make help-text HELP_LANGUAGES=...` leaves, DDTP what `make ddtp` does.
GENERATIVE_TEXT = $(if $(filter smoke,$(BUDGET)),assets/text,$(HELP_TEXT))
GENERATIVE_DESCRIPTIONS = $(if $(filter smoke,$(BUDGET)),,--descriptions $(DDTP))
GENERATIVE_DEVICE = $(if $(filter gpu,$(BUDGET)),cuda,cpu)
GENERATIVE_PRECISION = $(if $(filter gpu,$(BUDGET)),bf16,$(PRECISION))
GENERATIVE_MORE ?=

.PHONY: generative
generative: $(VENV)  ## an English LLM answers prompts in other languages (BUDGET=smoke, cpu, gpu; HELP_TEXT=FOLDER; DDTP=FOLDER; GENERATIVE_MORE="--dry-run")
	$(PY) -m benchmarks.generative.generative --budget $(BUDGET) --text $(GENERATIVE_TEXT) $(GENERATIVE_DESCRIPTIONS) --models $(PUBLIC_MODELS) --device $(GENERATIVE_DEVICE) --precision $(GENERATIVE_PRECISION) $(GENERATIVE_MORE)
