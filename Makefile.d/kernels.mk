# The kernels: reports, benchmarks, and the suite for a machine with a GPU.
.PHONY: kernel-report kernel-bench gpu-suite wheels

kernel-report: $(VENV)  ## registers, spills, shared memory and stages of every kernel, without a GPU
	$(PY) -W ignore -m benchmarks.kernels.compiler_report

kernel-bench: $(VENV)  ## accuracy, then time and memory of the kernels on this machine's CPU
	OMP_NUM_THREADS=$$(nproc) $(PY) -W ignore -m benchmarks.kernels.accuracy --device cpu
	OMP_NUM_THREADS=$$(nproc) $(PY) -W ignore -m benchmarks.kernels.speed --device cpu

# On a machine of its own Python and no network: make gpu-suite PY=python3 WHEELS=wheels
GPU_SITE = build/gpu-site
WHEELS ?=
gpu-suite:  ## tests and benchmarks that need a GPU; PY=python3 for the machine's own Python, WHEELS=folder for what it lacks
	rm -rf $(GPU_SITE) && mkdir -p $(GPU_SITE)
	$(if $(WHEELS),$(PY) -m pip install -q --no-index --no-deps --no-compile --target $(GPU_SITE) $(WHEELS)/*.whl)
	PYTHONPATH=$(GPU_SITE):kernels:.:$$PYTHONPATH $(PY) -W ignore -m benchmarks.gpu_suite

# make wheels PYTHON=3.12: what gpu-suite compares with, for that Python
WHEEL_PACKAGES = liger-kernel cut-cross-entropy
WHEEL_PYTHON = $(if $(filter 3.%,$(PYTHON)),$(PYTHON),3.12)
wheels:  ## fill wheels/ with the packages that gpu-suite compares with; PYTHON=3.12 says for which Python
	mkdir -p wheels
	$(PY) -m pip download -q --no-deps --only-binary=:all: --python-version $(WHEEL_PYTHON) --implementation cp \
		--platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 -d wheels $(WHEEL_PACKAGES)
	ls wheels
