"""`rung inspect`: look into an output."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from rung.app import inspect as views
from rung.app.runs import find_output, outputs_of
from rung.base.lookup import lookup

__all__ = ["inspect"]


@dataclass(frozen=True, slots=True)
class _Wanted:
    drops: bool
    flags: bool
    masks: bool
    records: bool
    cleaning: int

    def __bool__(self) -> bool:
        return bool(self.drops or self.flags or self.masks or self.records or self.cleaning)


def inspect(
    runs: Path, target: str, part: tuple[str, int], out: Console, tokenizer: Path | None, **wanted: Any
) -> None:
    """Print what was asked for; the manifest's overview when nothing was.

    Args:
        runs: folder of runs.
        target: RUN/STAGE or a path.
        part: a record's id ("" for the first ones) and how many examples of each kind.
        out: where to.
        tokenizer: a tokenizer.json for masks, instead of the model's own.
        wanted: drops, flags, masks, records; and of how many generations the cleaning is shown.
    """
    output, asked, chosen = find_output(runs, target), _Wanted(**wanted), views.Part(*part)
    if asked.drops:
        out.print(views.drops(output, chosen))
    if asked.flags:
        out.print(views.flags(output, chosen))
    if asked.cleaning:
        out.print(views.cleaning(output, asked.cleaning))
    if asked.masks:
        out.print(views.masks(output, chosen, lookup("app", "model_tokenizer")(output, tokenizer)))
    if asked.records or (chosen.id and not asked):
        out.print(views.records(output, chosen))
    if not asked and not chosen.id:
        out.print(views.overview(output, outputs_of(output.folder.parent)))
