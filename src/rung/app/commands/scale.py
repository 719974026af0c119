"""`rung scale`: many records with the settings of a pilot that passed, through the one runner there is."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from rung.app.choices import Choices
from rung.app.running import load_recipe, plan_recipe, plan_view, run_recipe
from rung.app.scaling import Scale, readme, scale_of, write_recipe, write_results
from rung.base.errors import GateFailed
from rung.base.files import write_text

__all__ = ["scale"]


def scale(
    manifest: Path,
    wanted: tuple[int, int, int],
    output: Path,
    choices: Choices,
    consoles: tuple[Console, Console],
    *,
    dry_run: bool,
) -> None:
    """Make `wanted` (records, shards, responses per instruction or 0) and leave records, shard folders and a README.

    Raises:
        GateFailed: the pilot did not pass, or something it rests on is not what it was.
        RungError: the named ending of the run; the README stays, and the same command goes on.
    """
    out, notes = consoles
    asked = scale_of(manifest, wanted, output, _typed(manifest, wanted, output, choices))
    chosen = replace(choices, runs=asked.run_folder.parent)
    path = write_recipe(asked)
    planned = plan_recipe(path, chosen)
    if planned.problems:
        raise GateFailed(f"the pilot cannot be scaled: {'; '.join(planned.problems)}", place=str(manifest))
    _leave_readme(asked, path, chosen)
    if dry_run:
        out.print(plan_view(planned, show_settings=False))
        return
    run_recipe(path, chosen, out, notes)
    write_results(asked)
    _leave_readme(asked, path, chosen)
    if not choices.quiet:
        out.print(Text(f"records: {output}"), soft_wrap=True)


def _leave_readme(asked: Scale, path: Path, choices: Choices) -> None:
    text = readme(asked, load_recipe(path, choices), plan_recipe(path, choices))
    write_text(asked.beside("_README.md"), text)


def _typed(manifest: Path, wanted: tuple[int, int, int], output: Path, choices: Choices) -> tuple[str, ...]:
    """The command again, as it can be typed."""
    count, num_shards, best_of_n = wanted
    line = f"rung scale --pilot-manifest {shlex.quote(str(manifest))} --count {count} --num-shards {num_shards} "
    parts = shlex.split(f"{line} --output {shlex.quote(str(output))}")
    parts += ["--best-of-n", str(best_of_n)] if best_of_n else []
    parts += [piece for text in choices.sets for piece in ("--set", text)]
    return (*parts, *(["--allow-dirty"] if choices.allow_dirty else []))
