"""Run the named experiments, or all: `python -m experiments [--quick] [--results FOLDER] [NAME ...]`."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from pathlib import Path

import experiments

__all__ = ["main", "names"]


def names() -> list[str]:
    """Every module of this package that has a `run`; names with an underscore are shared code."""
    found = pkgutil.iter_modules(experiments.__path__)
    return sorted(info.name for info in found if not info.name.startswith("_"))


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for, one after another; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"which (default all): {', '.join(names())}")
    parser.add_argument("--quick", action="store_true", help="the smallest run that exercises everything")
    parser.add_argument("--results", type=Path, default=Path("docs/results"), help="folder for the tables")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.name if name not in names()]:
        parser.error(f"no experiment is called {unknown[0]!r}; known: {', '.join(names())}")
    for name in options.name or names():
        sys.stdout.write(f"experiment {name}\n")
        importlib.import_module(f"experiments.{name}").run(options.results, options.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
