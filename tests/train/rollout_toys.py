"""A toy on which a policy loop shows what it does: two-token answers of a tiny model, right when the first is even."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rung.base.events import Events
from rung.engine.engine import Engine
from rung.engine.settings import EngineSettings
from rung.models.load import Loaded, load
from rung.records.chat.prompting import PromptSettings
from rung.records.contracts import Item, Score, Trace
from rung.records.types import RolloutRecord
from rung.search.one_shot import OneShot
from rung.search.settings import PlaySettings
from rung.train.adapters import prepare, trainable
from rung.train.rollout_loop import RolloutRun, train_on_rollouts
from rung.train.rollout_parts import Parts, Sat
from rung.train.rollout_settings import RolloutSettings
from rung.train.settings import AdapterSettings

ITEMS = [Item(f"i{n}", f"{n} {n * 7 % 11}") for n in range(12)]
RAW = PromptSettings(format="raw")
SIZES = {"num_steps": 6, "prompts_per_step": 4, "group_size": 4, "learning_rate": 5e-3, "warmup_steps": 0,
         "truncated": "as_is", "eval_interval": 3, "checkpoint_interval": 2, "seed": 5,
         "health": {"stop_on": ("dead_groups",)}}  # fmt: skip


class Even:
    """Right where the first token drawn has an even id; `abstains` gives no verdict on these items."""

    def __init__(self, odd: bool = False, abstains: Sequence[str] = ()) -> None:
        self.odd, self.abstains = odd, set(abstains)

    def score(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Score]:
        """One verdict per answer."""
        return [self._of(item, trace) for item, trace in zip(items, traces, strict=True)]

    def _of(self, item: Item, trace: Trace) -> Score:
        if item.id in self.abstains:
            return Score(None, "no verdict", abstained=True)
        assert trace.completion is not None
        if trace.completion.text and not trace.text:
            return Score(0.0, "cut")
        return Score(float(trace.completion.token_ids[0] % 2 == self.odd))


@dataclass
class Rewarded:
    """A batch of rewards, as a mix gives them."""

    scores: tuple[Score, ...]

    def log(self, events: Events, step: int) -> None:
        """Says the mean."""
        given = [score.value for score in self.scores if score.value is not None]
        events.metric("reward/mean", sum(given) / max(len(given), 1), step)


@dataclass
class Plain:
    """The verifier's own word as the reward."""

    scorer: Any

    def mixed(self, items: Sequence[Item], traces: Sequence[Trace], groups: Sequence[int]) -> Rewarded:
        """No mixing."""
        return Rewarded(tuple(self.scorer.score(items, traces)))


@dataclass
class Exam:
    """Held-out items, always the same draws; `rates` stands in for what comes out."""

    player: OneShot
    scorer: Any
    rates: list[float] | None = None
    steps: list[int] = field(default_factory=list)

    def sit(self, step: int) -> Sat:
        """Answer three items."""
        self.steps.append(step)
        traces = tuple(self.player.answer(ITEMS[:4], range(4)))
        scores = tuple(self.scorer.score(ITEMS[:4], traces))
        if self.rates is not None:
            num_right = round(4 * self.rates.pop(0))
            scores = tuple(Score(float(n < num_right)) for n in range(4))
        return Sat(tuple(ITEMS[:4]), traces, scores)


@dataclass
class Toy:
    """A network, its engine and everything that was kept of its run."""

    loaded: Loaded
    engine: Engine
    scorer: Any
    records: dict[int, list[RolloutRecord]] = field(default_factory=dict)
    run: RolloutRun | None = None

    def parts(self, **changes: Any) -> Parts:
        """What the loop is lent."""
        player = OneShot(self.engine, self.loaded.tokenizer, RAW, PlaySettings(max_new_tokens=2))
        values = {
            "player": player, "rewards": Plain(self.scorer), "accuracy": self.scorer, "rest": self.engine.release,
            "store": lambda step, records: self.records.update({step: list(records)}),
            "exam": Exam(player, self.scorer),
        }  # fmt: skip
        return Parts(**{**values, **changes})

    def go(self, scratch: Path, on_step: Any = lambda tokens: None, sinks: Any = (), **changes: Any) -> RolloutRun:
        """Train; `parts` and `items` among the changes replace those, the rest are settings."""
        parts, items = self.parts(**changes.pop("parts", {})), changes.pop("items", ITEMS)
        settings = RolloutSettings(**{**SIZES, **changes})
        self.run = train_on_rollouts(
            self.loaded.network, items, parts, settings, events=Events(sinks), scratch=scratch, on_step=on_step
        )
        return self.run

    def weights(self) -> dict[str, Any]:
        """Copies of what is trained."""
        return {name: p.detach().clone() for name, p in trainable(self.loaded.network).items()}


def toy(kind: str = "none", scorer: Any = None, frozen_sampler: bool = False, adapter: bool = True) -> Toy:
    """A tiny model, with what is trained on it chosen; `frozen_sampler` samples from a copy that nobody trains."""
    loaded = load("tiny:llama", precision="float32")
    if adapter:
        prepare(loaded.network, AdapterSettings(kind=kind, rank=4), seed=0)
    sampled = copy.deepcopy(loaded) if frozen_sampler else loaded
    return Toy(loaded, Engine(sampled, EngineSettings(num_slots=16)), scorer or Even())
