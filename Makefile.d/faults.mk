# Faults put into real ranks, and a training under random kills. Both go on where they were stopped.
MOMENTS ?= 100
HOURS ?= 2

.PHONY: faults soak
faults: $(VENV)  ## every fault in every place of a training of two ranks: ends in time, says where, loses nothing (MOMENTS=100)
	$(PY) -m benchmarks.faults.faults --moments $(MOMENTS)

soak: $(VENV)  ## train under kills at random for HOURS=2: the losses of an undisturbed run, and memory that stays flat
	$(PY) -m benchmarks.faults.soak --hours $(HOURS)
