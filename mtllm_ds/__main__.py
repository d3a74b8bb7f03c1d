"""`mtllm-ds COMMAND ...`, and `python -m mtllm_ds COMMAND ...` for launchers that start a module."""

from __future__ import annotations

from typing import NoReturn

from mtllm_ds.commands import launch


def main() -> NoReturn:
    launch()


if __name__ == "__main__":
    main()
