"""Shards one after another, in the run's own process."""

from __future__ import annotations

from rung.base.errors import BudgetSpent, GateFailed, Interrupted, StorageError
from rung.pipeline.sharding import together
from rung.pipeline.stage import Context, Outputs, Shards

__all__ = ["ABOUT_ALL", "in_turn"]

# Endings that are about all shards and not about the one they were met in.
ABOUT_ALL = (BudgetSpent, GateFailed, Interrupted, StorageError)


def in_turn(shards: Shards, context: Context, outputs: Outputs) -> None:
    """Make the shards in order. One failing shard neither stops nor hides: the rest are done first, then the failures
    are raised together. What is about all shards ends the loop at once.

    Raises:
        RungError: at least one shard failed.
    """
    failures, dearest = dict[int, Exception](), shards.expected
    work = shards.make_work()
    for index in shards.indices:
        context.budget.reserve_like(dearest)
        before = context.budget.stage
        try:
            with context.events.span("shard", shard=index):
                work(index)
        except ABOUT_ALL:
            raise
        except Exception as error:  # noqa: BLE001 - kept, and raised below with its shard's number
            failures[index] = error
            outputs.quarantine(shards.output, index, [f"{type(error).__name__}: {error}"])
            context.events.log(f"shard {index} of '{shards.output}' failed: {error}", level="error", shard=index)
        else:
            dearest = shards.dearest(dearest, context.budget.stage - before)
            shards.after(index)
        shards.tell(context.events, outputs)
    if failures:
        raise together(shards.output, failures, shards.num_shards)
