# Balanced students of monolingual teachers: from parallel text to report.html and a verdict. A killed run goes on; BUDGET=smoke shows
# in minutes that all steps work. TEXT is a folder of CODE.tsv.xz (English, a tab, the translation) or parallel_CODE.jsonl.xz;
# that of cpu and gpu: make help-text HELP_LANGUAGES="deu_Latn fra_Latn rus_Cyrl cat_Latn eus_Latn gaz_Latn khm_Khmr", TEXT=$(HELP_TEXT).
TEXT ?= assets/text
BALANCED_DEVICE = $(if $(filter gpu,$(BUDGET)),cuda,cpu)
BALANCED_PRECISION = $(if $(filter gpu,$(BUDGET)),bf16,$(PRECISION))
BALANCED_MORE ?=

.PHONY: balanced
balanced: $(VENV)  ## the benchmark of balanced_teachers (BUDGET=smoke, cpu, gpu; TEXT=FOLDER; BALANCED_MORE="--dry-run")
	$(PY) -m benchmarks.balanced.balanced --budget $(BUDGET) --text $(TEXT) --device $(BALANCED_DEVICE) --precision $(BALANCED_PRECISION) $(BALANCED_MORE)
