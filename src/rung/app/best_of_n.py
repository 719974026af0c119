"""What a pilot says about several responses per instruction, as a table and a decision with its reasons."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rung.app.runs import Output
from rung.base.errors import DataError
from rung.datagen.best_of_n import BestOfNRule, Decision, Option
from rung.pipeline.stages._pilot import best_of_n_decision

__all__ = ["decision_of", "view"]


def decision_of(pilot: Output, rule: BestOfNRule) -> Decision:
    """Decide from the records of a pilot and from what it spent.

    Raises:
        DataError: the output holds no candidates.
    """
    if not pilot.manifest.shards.get("candidate"):
        raise DataError(
            "this output holds no candidates",
            place=pilot.manifest.name,
            hint="name a bootstrap stage: rung best-of-n RUN/pilot",
        )
    return best_of_n_decision(pilot.opened, rule)


def view(found: Decision) -> RenderableType:
    """One row per number of responses, then the decision and why."""
    table = Table(box=None, padding=(0, 2))
    for column in ("responses", "instructions kept", "gain over one", "mean rank", "calls", "tokens per kept"):
        table.add_column(column, justify="right")
    for option in found.options:
        table.add_row(*_cells(option))
    answer = f"go: {found.num_candidates} responses per instruction" if found.go else "no-go: one response each"
    facts = (
        f"{found.num_instructions} answered instructions; {found.repeat_share:.0%} of the responses repeat a sibling"
    )
    return Group(table, Text(facts), Text(answer, style="bold"), *(Text(f"- {reason}") for reason in found.reasons))


def _cells(option: Option) -> tuple[str, ...]:
    gain = "" if option.num_candidates == 1 else f"{option.gain:+.1%} (low end {option.gain_low:+.1%})"
    return (
        str(option.num_candidates),
        f"{option.kept_share:.1%} [{option.low:.1%}, {option.high:.1%}]",
        gain,
        "none" if option.mean_rank is None else f"{option.mean_rank:.2f}",
        f"{option.response_calls:g}",
        "none" if option.tokens_per_kept is None else f"{option.tokens_per_kept:.0f}",
    )
