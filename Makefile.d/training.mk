# A training step beside plain two passes, a script for Hugging Face's Trainer, and plain PyTorch: SIZE=cpu (about ten minutes on two
# idle cores) or smoke; the sizes for a GPU are parts of gpu-suite. Its parts are kept: a killed run goes on by the same command.
SIZE ?= cpu
TRAINING_MORE ?=

.PHONY: training-speed
training-speed: $(VENV)  ## seconds of a training step, ours and others round by round (SIZE=cpu, smoke; TRAINING_MORE="--dry-run")
	$(PY) -W ignore -m benchmarks.training.speed --size $(SIZE) $(TRAINING_MORE)
