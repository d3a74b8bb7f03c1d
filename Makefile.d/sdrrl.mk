# An LLM's own English answers in other languages, on a real small model: from packages and parallel text to report.html and a verdict. A
# killed run goes on; BUDGET=smoke shows in minutes that all steps work. TEXT is a folder of CODE.tsv.xz (English, a tab, the translation)
# or of `make help-text HELP_LANGUAGES="spa_Latn cat_Latn glg_Latn epo_Latn"`; cpu and gpu want Apertium (docs/sdrrl.md).
SDRRL_DEVICE = $(if $(filter gpu,$(BUDGET)),cuda,cpu)
SDRRL_PRECISION = $(if $(filter gpu,$(BUDGET)),bf16,$(PRECISION))
SDRRL_MORE ?=

.PHONY: sdrrl
sdrrl: $(VENV)  ## a model learns its own answers in other languages (BUDGET=smoke, cpu, gpu; TEXT=FOLDER; SDRRL_MORE="--dry-run")
	$(PY) -m benchmarks.sdrrl.sdrrl --budget $(BUDGET) --text $(TEXT) --models $(PUBLIC_MODELS) --device $(SDRRL_DEVICE) --precision $(SDRRL_PRECISION) $(SDRRL_MORE)
