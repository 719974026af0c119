"""One shard: how many lists are asked for, and which of the kept records count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from pipeline_script import PLACES, THINGS

from rung.base.seeds import stream
from rung.datagen.generators.instructions import Instructions
from rung.datagen.generators.responses import Responses
from rung.datagen.pool import load_pool
from rung.pipeline.stages._shard import Made, Parts, make_shard
from rung.records.contracts import Item, Request, Trace
from rung.records.scripted import Scripted
from rung.records.types import Critique


class _Accepting:
    def critique(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Critique]:
        return [Critique("all", True, True, "A", 0.0, -2.0, 2.0, 2.0, 0.1, reason="") for _ in items]


def _mostly_questions(request: Request) -> str:
    """Nine questions of ten, whatever the list shows; a name is the response."""
    random = stream(request.seed, "script")
    last = request.text.rstrip().rsplit("\n", 1)[-1]
    if not last.rstrip(".").isdigit():
        return f" The {random.choice(THINGS)} of the {random.choice(PLACES)}.\n###END###"
    number, lines = int(last.rstrip(".")), []
    for _ in range(4):
        thing, place = random.choice(THINGS), random.choice(PLACES)
        asked = f"Where is the {thing} of {place}?", f"List three uses of the {thing} in the {place}."
        lines.append(asked[random.random() < 0.1] + f" ({random.randrange(10**6)})")
    return " " + "\n".join([lines[0], *(f"{number + n}. {text}" for n, text in enumerate(lines[1:], 1))])


def _made(target: int, **changes: float) -> tuple[Made, list[Request]]:
    completer, pool = Scripted(_mostly_questions), load_pool("few_shot_pool")
    parts = Parts(
        completer=completer,
        instructions=Instructions(Instructions.Settings(num_taken=4), completer=completer, pool=pool),
        responses=Responses(Responses.Settings(), completer=completer, pool=pool),
        instruction_filters=(),
        response_filters=(),
        critic=_Accepting(),
        instruction_critic=None,
        advisory=frozenset(),
        metadata={},
        **changes,  # type: ignore[arg-type]
    )
    return make_shard(parts, target, seed=5, max_rounds=4, after_round=lambda so_far: None), completer.requests


def test_types_take_turns_for_the_places_that_are_counted() -> None:
    made, _ = _made(60)
    kept = Counter(candidate.type for candidate in made.kept)
    over = Counter(c.type for c in made.candidates if c.reason == "count_reached")
    assert sum(kept.values()) == 60
    assert over["factual"] > 0
    assert len(kept) > 1
    # a type gave records away only when none has more places than it
    assert all(kept[kind] >= max(kept.values()) - 1 for kind in over)


@pytest.mark.parametrize(("kept_per_line", "num_lists"), [(1.0, 21), (0.5, 42)])
def test_the_first_round_is_as_large_as_the_pilot_says(kept_per_line: float, num_lists: int) -> None:
    """60 records and two fifths more at one or a half record per line, four lines per list."""
    _, requests = _made(60, kept_per_line=kept_per_line)
    lists = [request for request in requests if request.id.startswith("instructions-")]
    assert len(lists) == num_lists
