# Tasks of the evaluation that are rebuilt on the user's machine.
DDTP ?= runs/bases/ddtp
DDTP_LANGUAGES ?= deu_Latn jpn_Jpan dan_Latn fra_Latn ita_Latn
MT_DDTP = runs/bases/mt_ddtp
DDTP_MINUTES ?= $(if $(filter gpu,$(BUDGET)),16,60)

.PHONY: ddtp ddtp-bases
ddtp: $(VENV)  ## rebuild the topic task and its text from Debian's translated package descriptions (apt-get, private state)
	$(PY) -m benchmarks.quality.text.fetch_ddtp --out $(DDTP) --languages $(DDTP_LANGUAGES)

# The MT model of the help text goes on with package descriptions, in other languages and with a vocabulary of their own.
ddtp-bases: $(VENV)  ## train the MT model of ddtp_topics (after make ddtp; BUDGET=cpu or gpu; continues where it was stopped)
	test -f $(MT_DDTP)/summary.json || $(PY) -m benchmarks.quality.bases.train_mt --data $(DDTP) --languages $(DDTP_LANGUAGES) --pairs-per-language 30000 --out $(MT_DDTP) --start assets/mt --new-vocabulary --vocab-size 12000 --translation 1 --learning-rate 1e-3 --batch-size 32 --eval-steps 600 --max-length 96 --milestones 0.25 0.5 --core-minutes $(DDTP_MINUTES) $(BASES_DEVICE)
	test -f $(MT_DDTP)/figures.json || $(PY) -m benchmarks.quality.bases.mt_gates --mt $(MT_DDTP) --data $(DDTP) --languages $(DDTP_LANGUAGES) --cache runs/translations --output $(MT_DDTP)/figures.json $(BASES_DEVICE)
