# Figures of the data stream, beside four other readers. mosaicml-streaming and litdata pin other versions of our dependencies, so
# they are installed without theirs.
BENCH_DATA_TEXT ?= $(error set BENCH_DATA_TEXT to a folder of CODE.tsv.xz: English, a tab, the translation)
BENCH_DATA_WORK ?= runs/bench_data
OTHER_READERS = mosaicml-streaming==0.13.0 litdata==0.2.76 Brotli zstd python-snappy cramjam lightning-utilities tifffile \
	obstore catalogue boto3==1.43.117 s3transfer==0.19.3 requests charset-normalizer certifi

.PHONY: bench-data
bench-data: $(VENV)  ## reading speed, size, resume, mixing and padding (BENCH_DATA_TEXT=FOLDER)
	$(PIP) --no-deps $(OTHER_READERS)
	$(PY) -m benchmarks.data.run --text $(BENCH_DATA_TEXT) --work $(BENCH_DATA_WORK)
