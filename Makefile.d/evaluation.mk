# Tasks of the evaluation that are rebuilt on the user's machine.
DDTP ?= runs/bases/ddtp

.PHONY: ddtp
ddtp: $(VENV)  ## rebuild the topic task from Debian's translated package descriptions (apt-get, private state)
	$(PY) -m benchmarks.quality.fetch_ddtp --out $(DDTP)
