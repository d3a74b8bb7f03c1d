# The kernels: reports, benchmarks, and the suite for a machine with a GPU.
.PHONY: kernel-report kernel-bench gpu-suite gpu-rehearsal wheels

kernel-report: $(VENV)  ## registers, spills, shared memory and stages of every kernel, without a GPU
	$(PY) -W ignore -m benchmarks.kernels.compiler_report

kernel-bench: $(VENV)  ## accuracy, then time and memory of the kernels on this machine's CPU
	OMP_NUM_THREADS=$$(nproc) $(PY) -W ignore -m benchmarks.kernels.accuracy --device cpu
	OMP_NUM_THREADS=$$(nproc) $(PY) -W ignore -m benchmarks.kernels.speed --device cpu

# On a machine of its own Python and no network: make gpu-suite PY=python3 WHEELS=wheels OUTPUT=folder (or without make, see benchmarks/GPU.md)
WHEELS ?=
OUTPUT ?=
gpu-suite:  ## tests and benchmarks that need a GPU; PY=python3 for the machine's own Python, WHEELS=folder for what it lacks
	$(PY) -W ignore -m benchmarks.gpu_suite $(if $(WHEELS),--wheels $(WHEELS)) $(if $(OUTPUT),--output $(OUTPUT))

# The suite at toy size on this CPU, under the Python, torch and triton of a GPU machine. Not part of CI: 6 GB of packages.
REHEARSAL_PYTHON ?= python3.12
REHEARSAL_VENV ?= /tmp/rehearse-venv
gpu-rehearsal:  ## rehearse gpu-suite without a GPU, in REHEARSAL_VENV with another Python, torch and triton
	test -x $(REHEARSAL_VENV)/bin/python || $(REHEARSAL_PYTHON) -m venv $(REHEARSAL_VENV)
	$(REHEARSAL_VENV)/bin/python -m pip install -q -r benchmarks/kernels/rehearsal-requirements.txt
	REHEARSE=1 $(REHEARSAL_VENV)/bin/python -W ignore -m benchmarks.gpu_suite --output $(or $(OUTPUT),/tmp/gpu-rehearsal)

# make wheels PYTHON=3.12: what gpu-suite compares with, for that Python
WHEEL_PACKAGES = liger-kernel cut-cross-entropy
WHEEL_PYTHON = $(if $(filter 3.%,$(PYTHON)),$(PYTHON),3.12)
wheels:  ## fill wheels/ with the packages that gpu-suite compares with; PYTHON=3.12 says for which Python
	mkdir -p wheels
	$(PY) -m pip download -q --no-deps --only-binary=:all: --python-version $(WHEEL_PYTHON) --implementation cp \
		--platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 -d wheels $(WHEEL_PACKAGES)
	ls wheels
