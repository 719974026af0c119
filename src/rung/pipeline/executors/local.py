"""Shards of one stage, one after another in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rung.base.errors import BudgetSpent, GateFailed, Interrupted, RungError, StorageError
from rung.base.events import Events
from rung.pipeline.stage import Outputs

__all__ = ["for_each_shard"]


def for_each_shard(
    outputs: Outputs, output: str, indices: Sequence[int], work: Callable[[int], None], events: Events
) -> None:
    """Call `work(index)` for every shard of `output` that is not finished, and say which are skipped.

    One failing shard neither stops nor hides: the rest are done first, then the failures are raised together. A stop
    request, a spent budget, a full disk and a gate's early no end the loop at once: they are about all shards.

    Raises:
        RungError: at least one shard failed; of the failures' own class when they all have the same.
    """
    finished, failures = set(outputs.finished(output)), dict[int, Exception]()
    for position, index in enumerate(indices):
        if index in finished:
            events.log(f"shard {index} of '{output}' is finished, skipped", shard=index)
        else:
            try:
                work(index)
            except (BudgetSpent, GateFailed, Interrupted, StorageError):
                raise
            except Exception as error:  # noqa: BLE001 - kept, and raised below with its shard's number
                failures[index] = error
                events.log(f"shard {index} of '{output}' failed: {error}", level="error", shard=index)
        events.progress(output, position + 1, len(indices), "shards")
    if failures:
        raise _together(output, failures, len(indices))


def _together(output: str, failures: dict[int, Exception], num_shards: int) -> RungError:
    kinds = {type(error) for error in failures.values()}
    kind = kinds.pop() if len(kinds) == 1 else RungError
    named = "; ".join(f"shard {index}: {type(error).__name__}: {error}" for index, error in failures.items())
    found = (kind if issubclass(kind, RungError) else RungError)(
        f"{len(failures)} of {num_shards} shards failed ({named})",
        place=output,
        hint="the other shards are kept; the same command tries the failed ones again",
    )
    found.__cause__ = next(iter(failures.values()))
    return found
