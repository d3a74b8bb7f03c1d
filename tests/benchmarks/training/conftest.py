"""What the smoke size's variants read, written once."""

import pytest

from benchmarks.training.material import write_material
from benchmarks.training.sizes import SIZES


@pytest.fixture(scope="package")
def material(tmp_path_factory):
    root = tmp_path_factory.mktemp("training")
    folder = root / "files"
    write_material(SIZES["smoke"], folder, root / "models")
    return folder
