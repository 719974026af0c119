"""The shards of a stage, whoever makes them: the one call that a stage needs to be run in pieces."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rung.base.errors import Incomplete, RungError, SettingsError
from rung.pipeline.budget import Spend
from rung.pipeline.stage import Context, Outputs, Shards

__all__ = ["for_each_shard", "parse_shards", "together"]


def for_each_shard(
    context: Context,
    outputs: Outputs,
    output: str,
    indices: Sequence[int],
    make_work: Callable[[], Callable[[int], None]],
    *,
    after: Callable[[int], None] | None = None,
    expected: Spend | None = None,
) -> None:
    """Make every shard of `output` that is not finished, by the recipe's executor, and say which are skipped.

    Args:
        context: of the stage.
        outputs: of the stage. In a worker they take that worker's shards only.
        output: the one whose shard counts as finished work; written last of a shard's outputs.
        indices: all shards there are.
        make_work: loads what the work needs and returns what makes and saves one shard. It is called in each process
            that makes shards, and not at all where there is nothing to make. It and its work may do nothing that
            depends on other shards.
        after: called in the run's own process when a shard is finished; what it raises ends all.
        expected: what one shard will cost, as far as it is known before the first is finished.

    Raises:
        Incomplete: only some shards were asked for, and they are done.
        RungError: at least one shard failed; of the failures' own class when they all have the same.
    """
    finished = set(outputs.finished(output))
    for index in sorted(finished & set(indices)):
        context.events.log(f"shard {index} of '{output}' is finished, skipped", shard=index)
    missing = [index for index in indices if index not in finished]
    wanted = [index for index in missing if context.only is None or index in context.only]
    if wanted:
        shards = Shards(output, tuple(wanted), len(indices), make_work, after or _nothing, expected or Spend())
        context.executor.run(shards, context, outputs)
    if left := sorted(set(missing) - set(wanted)):
        raise Incomplete(
            f"{len(left)} of {len(indices)} shards of '{output}' are still to be made: {', '.join(map(str, left))}",
            place=context.name,
            hint="make them here or on another machine, `rung collect` those from elsewhere, and run once more",
        )


def parse_shards(text: str, place: str) -> tuple[str, frozenset[int]]:
    """`STAGE=0-4,7` as the stage's name and the shards' numbers.

    Raises:
        SettingsError: it cannot be read so.
    """
    stage, _, ranges = text.partition("=")
    numbers: set[int] = set()
    for part in ranges.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) < int(first):
            raise SettingsError(
                f"cannot read '{text}' as shards of a stage", place=place, hint="STAGE=0-4 or STAGE=0,3,7-9"
            )
        numbers |= set(range(int(first), int(last or first) + 1))
    return stage.strip(), frozenset(numbers)


def _nothing(index: int) -> None:
    """For stages that look at no finished shard."""


def together(output: str, failures: Mapping[int, Exception], num_shards: int) -> RungError:
    """One error for all shards that failed, each named with its cause."""
    kinds = {type(error) for error in failures.values()}
    kind = kinds.pop() if len(kinds) == 1 else RungError
    named = "; ".join(f"shard {index}: {type(error).__name__}: {error}" for index, error in sorted(failures.items()))
    found = (kind if issubclass(kind, RungError) else RungError)(
        f"{len(failures)} of {num_shards} shards failed ({named})",
        place=output,
        hint="the other shards are kept; the same command tries the failed ones again",
    )
    found.__cause__ = next(iter(failures.values()))
    return found
