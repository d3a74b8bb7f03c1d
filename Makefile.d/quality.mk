# Base models and the text sample: made anew from Debian's help text. Each step continues where it was stopped.
HELP_TEXT ?= runs/bases/help_text
MT_RANKING = runs/bases/mt_ranking
MT = runs/bases/mt
LLAMA = runs/bases/llama
# Minutes of ranking of translations, of translation beside it, and of the Llama: CPU time of all cores together, or time on the
# wall of one GPU (BUDGET=gpu).
BUDGET ?= cpu
RANKING_MINUTES ?= $(if $(filter gpu,$(BUDGET)),8,60)
TRANSLATION_MINUTES ?= $(if $(filter gpu,$(BUDGET)),16,75)
LLAMA_MINUTES ?= $(if $(filter gpu,$(BUDGET)),6,38)
BASES_DEVICE = $(if $(filter gpu,$(BUDGET)),--device cuda)

# BUDGET=parallel confirms on languages that the other runs have not opened, by an MT model of their own.
FRESH_LANGUAGES = deu_Latn khm_Khmr spa_Latn tur_Latn vie_Latn zho_Hans
MT_FRESH = runs/bases/mt_fresh
FRESH_MINUTES ?= $(if $(filter gpu,$(BUDGET)),16,60)
HELP_LANGUAGES ?=

.PHONY: help-text bases fresh-bases assets
help-text: $(VENV)  ## rebuild the help text from Debian's packages (apt-get, private state; HELP_LANGUAGES="CODE ...")
	$(PY) -m benchmarks.quality.text.fetch_help_text --out $(HELP_TEXT) $(if $(HELP_LANGUAGES),--languages $(HELP_LANGUAGES))

# The second run of the MT model goes on from the finished first one.
bases: $(VENV)  ## train the tiny MT model and the tiny Llama (HELP_TEXT=FOLDER, BUDGET=cpu or gpu)
	test -f $(MT_RANKING)/summary.json || $(PY) -m benchmarks.quality.bases.train_mt --data $(HELP_TEXT) --out $(MT_RANKING) --core-minutes $(RANKING_MINUTES) $(BASES_DEVICE)
	test -f $(MT)/summary.json || $(PY) -m benchmarks.quality.bases.train_mt --data $(HELP_TEXT) --out $(MT) --start $(MT_RANKING) --translation 1 --learning-rate 1e-3 --batch-size 64 --milestones 0.25 0.5 --core-minutes $(TRANSLATION_MINUTES) $(BASES_DEVICE)
	test -f $(LLAMA)/summary.json || $(PY) -m benchmarks.quality.bases.train_llama --data $(HELP_TEXT) --out $(LLAMA) --core-minutes $(LLAMA_MINUTES) $(BASES_DEVICE)

fresh-bases: $(VENV)  ## train the MT model of BUDGET=parallel (after make help-text HELP_LANGUAGES=...; goes on from assets/mt)
	test -f $(MT_FRESH)/summary.json || $(PY) -m benchmarks.quality.bases.train_mt --data $(HELP_TEXT) --languages $(FRESH_LANGUAGES) --out $(MT_FRESH) --start assets/mt --new-vocabulary --vocab-size 12000 --translation 1 --learning-rate 1e-3 --batch-size 32 --eval-steps 600 --max-length 80 --milestones 0.25 0.5 --core-minutes $(FRESH_MINUTES) $(BASES_DEVICE)

assets: $(VENV)  ## write assets/ from the trained base models, with measured cards
	$(PY) -m benchmarks.quality.bases.write_assets --data $(HELP_TEXT) --text --mt $(MT) --llama $(LLAMA)

# From base models to report.html and a verdict. A killed run goes on; BUDGET=smoke shows in minutes that all steps work.
TASK ?= lohelp_modules
QUALITY_TEXT = $(if $(filter ddtp_topics,$(TASK)),$(DDTP),$(HELP_TEXT))
QUALITY_OWN_MT = $(if $(filter ddtp_topics,$(TASK)),$(MT_DDTP),$(if $(filter parallel,$(BUDGET)),$(MT_FRESH)))
QUALITY_MT ?= $(or $(QUALITY_OWN_MT),assets/mt)
QUALITY_RUNGS = $(or $(QUALITY_OWN_MT),$(MT))
MT_LADDER ?= $(wildcard $(QUALITY_RUNGS)/at-25 $(QUALITY_RUNGS)/at-50)
QUALITY_DEVICE = $(if $(filter gpu,$(BUDGET)),cuda,cpu)
QUALITY_PRECISION = $(if $(filter gpu,$(BUDGET)),bf16,$(PRECISION))
QUALITY_MORE ?=
# BUDGET=public and public-smoke take public models in place of an MT model of ours, and text of both tasks for stage 1.
QUALITY_PUBLIC = $(filter public public-smoke,$(BUDGET))
QUALITY_BACKBONE = $(or $(filter smollm2,$(BACKBONE)),minilm)
QUALITY_MORE_TEXT = $(if $(filter ddtp_topics,$(TASK)),$(HELP_TEXT),$(DDTP))
QUALITY_MODELS = $(if $(QUALITY_PUBLIC),--models $(PUBLIC_MODELS) --backbones $(QUALITY_BACKBONE) --more-text $(QUALITY_MORE_TEXT),--mt $(QUALITY_MT) --mt-ladder $(MT_LADDER))
PUBLIC_HELP_LANGUAGES = cat_Latn deu_Latn dzo_Tibt eus_Latn fra_Latn gaz_Latn jpn_Jpan khm_Khmr rus_Cyrl spa_Latn tur_Latn vie_Latn zho_Hans
PUBLIC_DDTP_LANGUAGES = ces_Latn dan_Latn deu_Latn fra_Latn ita_Latn jpn_Jpan nld_Latn por_Latn rus_Cyrl slk_Latn spa_Latn swe_Latn zho_Hans

.PHONY: quality public-text
public-text:  ## what BUDGET=public reads: help text and package descriptions in every language (apt-get, private state)
	$(MAKE) help-text HELP_LANGUAGES="$(PUBLIC_HELP_LANGUAGES)"
	$(MAKE) ddtp DDTP_LANGUAGES="$(PUBLIC_DDTP_LANGUAGES)"

quality: $(VENV)  ## the quality benchmark (BUDGET=cpu, parallel, gpu, short, smoke, public, public-smoke; TASK=lohelp_modules, ddtp_topics; QUALITY_MORE="--dry-run")
	@test -n "$(QUALITY_PUBLIC)" || test "$(QUALITY_MT)" != "$(QUALITY_OWN_MT)" || test -d $(QUALITY_MT) || { echo "no MT model in $(QUALITY_MT): make fresh-bases (BUDGET=parallel) or make ddtp-bases (TASK=ddtp_topics) first" >&2; exit 2; }
	$(if $(QUALITY_PUBLIC),$(PY) -m benchmarks.public_models.write --out $(PUBLIC_MODELS) --models e5-small $(filter smollm2,$(QUALITY_BACKBONE)))
	$(PY) -m benchmarks.quality.quality --budget $(BUDGET) --task $(TASK) --data $(QUALITY_TEXT) $(QUALITY_MODELS) --device $(QUALITY_DEVICE) --precision $(QUALITY_PRECISION) $(QUALITY_MORE)
