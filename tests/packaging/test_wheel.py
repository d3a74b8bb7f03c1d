"""What `pip install` of a wheel gives: the whole path from an empty folder, without the repository."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.fixtures.runs import REPOSITORY

pytestmark = pytest.mark.slow
SIDES = ("--encoder", "assets/mt", "--llm", "assets/llm", "--max-length", 128)
TEXT = "assets/text/stage1_valid_eng_Latn.jsonl.xz"
FEW_STEPS = ("run.max_steps=2", "run.validate_every=2", "run.save_every=2", "data.lanes=4", "data.cells_per_forward=2")
VALIDATION = ("data.validation=runs/demo/data/train", "data.validation_samples=16")


class Installed:
    """Commands of a fresh environment that holds the wheel, run in a folder that was empty."""

    def __init__(self, place: Path) -> None:
        self.folder, self.bin = place / "empty", place / "venv" / "bin"
        self.folder.mkdir()
        self._build(place)

    def _build(self, place: Path) -> None:
        source = place / "source"
        left_out = shutil.ignore_patterns(
            ".*", "runs", "build", "dist", "*.egg-info", "__pycache__", "tests", "benchmarks"
        )
        shutil.copytree(REPOSITORY, source, ignore=left_out)
        quiet = ("--quiet", "--no-deps", "--disable-pip-version-check")
        run(sys.executable, "-m", "pip", "wheel", *quiet, "--no-build-isolation", "-w", place, source)
        shutil.rmtree(source)
        run(sys.executable, "-m", "venv", "--without-pip", place / "venv")
        packages = Path(
            run(self.bin / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
        )
        # Everything but ours comes from the environment of the tests: a line of a .pth runs none of that folder's own .pth files.
        (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
        run(sys.executable, "-m", "pip", "--python", self.bin / "python", "install", *quiet, *place.glob("*.whl"))

    def python(self, *arguments) -> str:
        return run(self.bin / "python", *arguments, cwd=self.folder)

    def mtllm(self, *arguments) -> str:
        return run(self.bin / "mtllm-ds", *arguments, cwd=self.folder)

    def train_on_two_ranks(self, *arguments) -> str:
        port = 28500 + os.getpid() % 500
        runner = ("-m", "deepspeed.launcher.runner", "--num_gpus", 2, "--master_port", port, "--module", "mtllm_ds")
        return self.python(*runner, "train", *arguments)


def run(*command, cwd=None) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    return Installed(tmp_path_factory.mktemp("wheel"))


def test_what_ships_is_found(installed):
    where = installed.python("-c", "import mtllm_ds, mtllm_kernels; print(mtllm_ds.__file__, mtllm_kernels.__file__)")
    assert where.count(str(installed.bin.parent)) == 2
    shown = installed.mtllm("list")
    for folder in ("launchers/recipes", "launchers/tasks", "ds_configs"):
        names = [path.stem for path in (REPOSITORY / folder).iterdir() if path.suffix in (".yaml", ".json")]
        assert [name for name in names if f"  {name} " not in shown] == []
    assert not list(installed.folder.iterdir())


def test_stage_1_from_embedded_text_to_vectors(installed):
    text = ("--input", TEXT, "--language", "eng_Latn", "--num-workers", 1)
    installed.mtllm("prepare", "shards", *text, *SIDES, "--output", "runs/demo/data/train")
    planned = installed.mtllm("train", "--recipe", "demo", "--dry-run", "--world-size", 2, *VALIDATION)
    assert "all checks passed" in planned
    trained = installed.train_on_two_ranks("--recipe", "demo", *FEW_STEPS, *VALIDATION)
    assert "finished 2 steps" in trained
    installed.mtllm("export", "runs/demo", "my_model")
    bases = json.loads((installed.folder / "my_model" / "config.json").read_text())["bases"]
    assert {side: base["name"] for side, base in bases.items()} == {"encoder": "assets/mt", "llm": "assets/llm"}
    encode = (
        "print(MTLLM.from_pretrained('my_model').encode(['Guten Morgen'], lang='deu_Latn').isfinite().all().item())"
    )
    assert installed.python("-c", f"from mtllm_ds import MTLLM; {encode}").strip() == "True"
    parallel = ("--file", "assets/text/parallel_deu_Latn.jsonl.xz", "--language", "deu_Latn", "--limit", 20)
    assert "among 20" in installed.mtllm("evaluate", "retrieval", "--model", "my_model", *parallel)
    assert {path.name for path in installed.folder.iterdir()} == {"runs", "my_model"}


def test_a_task_from_embedded_items_to_a_report(installed):
    data = "runs/task/train"
    task = ("--task", "lohelp_sample")
    installed.mtllm("prepare", "task", *task, "--split", "train", "--train-items", 64, *SIDES, "--output", data)
    overrides = ("data.validation=null", "model.reader=stacked", "run.output_dir=runs/direct", *FEW_STEPS)
    installed.mtllm("train", "--recipe", "task_tuning", *overrides)
    installed.mtllm("export", "runs/direct", "my_classifier")
    asked = ("--languages", "deu_Latn", "--limit", 6, "--output", "runs/report")
    installed.mtllm("evaluate", "model", "--model", "my_classifier", *task, *asked)
    assert (installed.folder / "runs" / "report" / "report.html").is_file()
    translated = ("--mt", "assets/mt", "--languages", "deu_Latn", "--items", 2, "--output", "runs/translated")
    installed.mtllm("translate", "test", *task, *translated)
    assert (installed.folder / "runs" / "translated" / "plain" / "task.yaml").is_file()
