"""`python -m bench [--quick] [NAME ...]`: run every benchmark in this folder, or the named ones.

A benchmark is a module with `run(results_folder, quick) -> str`: it writes `bench_<name>.json` and returns one line.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from pathlib import Path

import bench

RESULTS = Path(__file__).parent.parent / "docs" / "results"


def main() -> None:
    """Run and print one line each."""
    names = sorted(m.name for m in pkgutil.iter_modules(bench.__path__) if not m.name.startswith("_"))
    parser = argparse.ArgumentParser(prog="bench", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"which ones, of: {', '.join(names)}; default all")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round: shows that it runs, not how fast")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON files")
    chosen = parser.parse_args()
    unknown = sorted(set(chosen.names) - set(names))
    if unknown:
        parser.error(f"no benchmark called {', '.join(unknown)}; there are {', '.join(names)}")
    for name in chosen.names or names:
        line = importlib.import_module(f"bench.{name}").run(chosen.results, chosen.quick)
        sys.stdout.write(f"{name}: {line}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
