"""The house's import rule, read from the source: downwards only, never sideways, and few doors to big libraries."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent

FLOORS = {
    "mtllm_ds.errors": 0, "mtllm_ds.atomic": 0, "mtllm_ds.child_processes": 0, "mtllm_ds.draws": 0, "mtllm_ds.tensor_draws": 0,
    "mtllm_ds.file_lock": 0, "mtllm_ds.text_files": 0, "mtllm_ds.step_parts": 0, "mtllm_ds.redaction": 0,
    "mtllm_ds.supply_chain": 6,
    "mtllm_ds.command_line": 0, "mtllm_ds.config": 0, "mtllm_ds.languages": 0, "mtllm_ds.weight_names": 0,
    "mtllm_kernels": 0,
    "mtllm_ds.data": 1, "mtllm_ds.observe": 1, "mtllm_ds.cluster": 1,
    "mtllm_ds.models": 2, "mtllm_ds.checkpoint": 2,
    "mtllm_ds.teachers": 3,
    "mtllm_ds.objectives": 4, "mtllm_ds.transfer_sets": 4,
    "mtllm_ds.preflight": 5,
    "mtllm_ds.training": 6, "mtllm_ds.evaluation": 6, "mtllm_ds.inference": 6, "mtllm_ds.planning": 6, "mtllm_ds.doctor": 6,
    "mtllm_ds.commands": 7,
    "mtllm_ds.__main__": 8, "launchers": 8, "benchmarks": 8, "mtllm_ds.adapters": 8,
}  # fmt: skip

# Within a folder: a room, and those that it may know.
ROOMS = {
    "mtllm_ds/data": {
        "text": (),
        "shards": ("columns", "text"),
        "writing": ("columns", "text", "shards"),
        "stream": ("columns", "text", "shards"),
    },
    "mtllm_ds/evaluation": {
        "items": (),
        "answers": ("items",),
        "report": ("items", "answers", "generation"),
        "masked": (),
        "generation": ("items",),
    },
    "benchmarks/quality": {
        "text": (),
        "vectors": ("text",),
        "bases": ("text", "vectors"),
        "claim": ("text", "vectors"),
    },
}

DOORS = {
    "deepspeed": ("mtllm_ds/cluster/", "mtllm_ds/training/engine.py"),
    "triton": ("kernels/", "benchmarks/"),
    "webdataset": ("mtllm_ds/data/", "benchmarks/data/"),
}


def sources() -> list[Path]:
    folders = ("mtllm_ds", "kernels", "launchers", "benchmarks")
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(name: str) -> str | None:
    """The room a dotted name lies in: a package or a single file of one floor."""
    return max((key for key in FLOORS if name == key or name.startswith(key + ".")), key=len, default=None)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removeprefix("kernels.")


def test_every_module_has_a_floor():
    homeless = [str(path) for path in sources() if room(module_name(path)) is None and path.name != "__init__.py"]
    assert homeless == []


def test_imports_run_downwards_only():
    wrong = []
    for path in sources():
        here = room(module_name(path))
        for name in imported(path):
            there = room(name)
            if here and there and here != there and FLOORS[there] >= FLOORS[here] and FLOORS[here] != 8:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    # Rooms of one floor may share the floor's own ground: config may use errors, data may use languages.
    wrong = [line for line in wrong if not any(f"imports {low}" in line for low in ground())]
    assert wrong == []


def ground() -> list[str]:
    return [name for name, floor in FLOORS.items() if floor == 0]


def test_rooms_of_a_folder_are_in_order():
    """Scripts beside the rooms are on top."""
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for folder, rooms in ROOMS.items()
        for here, below in rooms.items()
        for path in sorted((ROOT / folder / here).rglob("*.py"))
        for name in imported(path)
        if name.startswith(package := folder.replace("/", ".") + ".")
        and name.removeprefix(package).split(".")[0] not in (here, *below)
    ]
    assert wrong == []


def test_the_ground_floor_imports_nothing_above():
    for path in sources():
        here = room(module_name(path))
        if here and FLOORS[here] == 0:
            above = [name for name in imported(path) if (there := room(name)) and FLOORS[there] > 0]
            assert above == [], f"{path}"


def test_big_libraries_have_few_doors():
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources()
        for name in imported(path)
        for library, doors in DOORS.items()
        if name.split(".")[0] == library and not str(path.relative_to(ROOT)).startswith(doors)
    ]
    assert wrong == []


def test_files_stay_small():
    long = [
        str(path) for path in [*sources(), *(ROOT / "tests").rglob("*.py")] if len(path.read_text().splitlines()) > 400
    ]
    assert long == []


def test_launchers_are_thin():
    assert {len(path.read_text().splitlines()) for path in (ROOT / "launchers").glob("*.py")} == {6}
