# Facts about countries, asked in many languages: what an English LLM knows, and what a stack on it can be asked. A killed run goes on;
# BUDGET=smoke shows in minutes that all steps work. FACTS_MORE="--stack FOLDER" asks an export too.
FACTS_DEVICE = $(if $(filter gpu,$(BUDGET)),cuda,cpu)
FACTS_PRECISION = $(if $(filter gpu,$(BUDGET)),bf16,$(PRECISION))
FACTS_MORE ?=

.PHONY: facts
facts: $(VENV)  ## what an LLM knows of countries, asked in many languages (BUDGET=smoke, cpu, gpu; FACTS_MORE="--stack FOLDER", "--dry-run")
	$(PY) -m benchmarks.facts.facts --budget $(BUDGET) --device $(FACTS_DEVICE) --precision $(FACTS_PRECISION) $(if $(findstring --llm,$(FACTS_MORE)),,--models $(PUBLIC_MODELS)) $(FACTS_MORE)
