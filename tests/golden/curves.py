"""A run's curve: what its log says of every step and validation, but for times."""

from __future__ import annotations

from pathlib import Path

from tests.distributed.ranks import ranks
from tests.fixtures.runs import rows_of, settings_of
from tests.golden.cases import CASES, Material, train

CURVES = Path(__file__).with_name("curves.json")
_UNTIMED = (
    "loss",
    "grad_norm",
    "fvu",
    "token_loss",
    "masked_accuracy",
    "accuracy",
    "self_similarity",
    "nll",
    "kl",
    "teacher_nll",
)


def curve_of(material: Material, name: str, world_size: int, **overrides: str) -> list[dict[str, float]]:
    """Figures of every logged row of a case, trained on `world_size` ranks with further `overrides`."""
    for needed in CASES[name].needs:
        if not (material.recipe(CASES[name].material).parent / "runs-1" / needed).exists():
            curve_of(material, needed, 1)
    recipe, chosen = material.overrides(name, world_size)
    overrides = {**chosen, **overrides}
    assert ranks(world_size).run(train, recipe, overrides) == [0] * world_size
    return [
        {key: value for key, value in row.items() if key.removeprefix("eval_") in _UNTIMED}
        for row in rows_of(settings_of(recipe, **overrides))
    ]
