"""`rung review`: ask for a review of a run, or for an order of things to do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rung.app.runs import find_run
from rung.base.errors import GateFailed, ProviderFailed, ReviewPending
from rung.base.files import read_json
from rung.engine.opening import open_completer
from rung.pipeline.ledger import Ledger
from rung.pipeline.lock import locked
from rung.pipeline.review.ask import (
    Guidance,
    Review,
    ReviewContext,
    request_methodology_review,
    request_priority_guidance,
)
from rung.pipeline.review.reviewer import open_reviewer
from rung.pipeline.review.settings import ReviewDemand
from rung.pipeline.yaml_source import parse_value

__all__ = ["review"]


def review(
    runs: Path, run: str, asked: tuple[str, Sequence[str], Sequence[str]], out: Console, *, reviewer: str, check: bool
) -> None:
    """Ask, and print what came back.

    Args:
        runs: folder of runs.
        run: a run, or its folder.
        asked: the question ("" for the usual one), options to be put in order (then the question is their order), and
            the stages that are shown (all when empty).
        out: where to.
        reviewer: a kind, or `{kind: NAME, ...settings}`; "" takes the one that the run's recipe demands, else a person.
        check: only say what has to be set up before the reviewer can be asked.

    Raises:
        GateFailed: it was not approved.
        ProviderFailed: no review came.
        ReviewPending: a person has still to fill in the form.
    """
    folder = find_run(runs, run)
    recipe = _recipe(folder)
    who = parse_value(reviewer, "--reviewer") if reviewer else _demanded(recipe)
    if check:
        missing = open_reviewer(who, open_completer, "--reviewer").missing()
        out.print(Text("\n".join(f"missing: {text}" for text in missing) or "nothing is missing"))
        return
    question, options, stages = asked
    with locked(folder):
        context = ReviewContext(
            folder, who, tuple(stages), money_left=_left(folder, recipe), open_completer=open_completer
        )
        if options:
            _show_order(request_priority_guidance(list(options), context), out)
        else:
            _show_review(request_methodology_review(question or _usual_question(), context), out)


def _recipe(folder: Path) -> dict[str, Any]:
    try:
        return dict(read_json(folder / "recipe.json"))
    except (OSError, json.JSONDecodeError):
        return {}


def _demanded(recipe: dict[str, Any]) -> Any:
    found = [stage["review"]["reviewer"] for stage in recipe.get("stages", ()) if "review" in stage]
    return found[0] if found else "person"


def _left(folder: Path, recipe: dict[str, Any]) -> float | None:
    cap = recipe.get("budget", {}).get("money")
    return None if cap is None else cap - Ledger(folder).spent().money


def _usual_question() -> str:
    return ReviewDemand().question


def _refuse_empty(found: Review | Guidance) -> None:
    if found.pending:
        raise ReviewPending(found.problem, place=str(found.request_file.parent))
    if not found.success:
        raise ProviderFailed(f"no review came: {found.problem}", place=str(found.request_file.parent))


def _show_review(found: Review, out: Console) -> None:
    _refuse_empty(found)
    out.print(Text("approved" if found.approved else "not approved", "bold green" if found.approved else "bold red"))
    for title, texts in (("reasons", found.reasons), ("suggestions", found.suggestions)):
        for text in texts:
            out.print(Text(f"{title[:-1]}: {text}"))
    _show_cost(found, out)
    if not found.approved:
        raise GateFailed("the reviewer did not approve", place=str(found.reply_file), hint="change what it names")


def _show_order(found: Guidance, out: Console) -> None:
    _refuse_empty(found)
    table = Table(box=None, padding=(0, 2))
    for column in ("", "first to last", "because"):
        table.add_column(column, overflow="fold")
    for number, (option, reason) in enumerate(zip(found.order, found.reasons, strict=True), 1):
        table.add_row(str(number), Text(option), Text(reason))
    out.print(table)
    _show_cost(found, out)


def _show_cost(found: Review | Guidance, out: Console) -> None:
    out.print(Text(f"{found.seconds:.1f} s, {found.money:.2f} money; kept in {found.reply_file}"), soft_wrap=True)
