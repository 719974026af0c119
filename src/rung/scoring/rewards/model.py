"""What a trained reward model says: its attributes weighed against each other, from the middle or from the worst case.

    R = sum w U / sum |w|     U = mean of the quantiles, or (CVaR) of those up to `tail`, or the one at `level`

The stage lends the model as a reader, so nothing here brings torch. Attributes come as shares of their scale, so that a
weight means the same for each; a negative one counts against (verbosity, say). With a model of quantiles `cvar` pays
for what an answer is worth when it turns out badly (arXiv 2409.10164), and prefers the sure of two equal means;
`quantile` takes one of them, 0.5 the median, a lower one for caution, between two levels the line through them. An
answer that the model cannot read (too long) makes it abstain. So does one without text, which costs a policy nothing:
`empty: least` gives those the least there is. A trained model is easier to please than a verifier: probe it
(`rung.scoring.hacking`) and watch it against a hidden verifier (`rung.scoring.hidden`).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import Literal

from rung.base.errors import SettingsError
from rung.base.settings import Field, Settings, nearest
from rung.records.contracts import Item, Score, Trace
from rung.scoring.reward import Example, Lent, Range, Reader, Reward

__all__ = ["Model"]


class ModelSettings(Settings):
    """Which model, what counts, and how risk is taken."""

    name: str = Field(default="model", min_length=1, description="name under which the reward model is lent")
    weights: Mapping[str, float] = Field(
        default={}, description="weight by attribute, the others 0; empty: as the model says"
    )
    risk: Literal["mean", "cvar", "quantile"] = Field(
        default="mean", description="the expectation, the mean of the worst part, or a single quantile"
    )
    tail: float = Field(default=0.25, gt=0, le=1, description="share of the worst outcomes that cvar looks at")
    level: float = Field(default=0.25, gt=0, lt=1, description="which quantile is looked at; 0.5 is the median")
    empty: Literal["abstain", "least"] = Field(
        default="abstain", description="what an answer without text gets: no judgement, or the least of the range"
    )


class Model(Reward[ModelSettings]):
    """A weighted mean of a reward model's attributes."""

    Settings = ModelSettings
    NEEDS = ("reader",)
    CONTENT = True
    EXAMPLES = (
        Example({}, "seven and five are twelve", 0.5),
        Example({"weights": {"helpfulness": 1.0}}, "seven and five are twelve", 0.75),
        Example({"weights": {"helpfulness": 3.0, "verbosity": -1.0}}, "seven and five are twelve", 0.5),
        Example({"weights": {"helpfulness": 1.0}, "risk": "cvar"}, "seven and five are twelve", 0.5),
        Example({"weights": {"helpfulness": 1.0}, "risk": "quantile", "level": 0.5}, "seven and five are twelve", 0.75),
        Example({"weights": {"helpfulness": 1.0}, "risk": "quantile", "level": 0.1}, "seven and five are twelve", 0.5),
        Example({}, "", None),
        Example({"weights": {"verbosity": -1.0}, "empty": "least"}, " ", -1.0),
    )

    def __init__(self, settings: ModelSettings, lent: Lent | None = None) -> None:
        """Take the model that is lent.

        Raises:
            SettingsError: none of that name is lent, a weight for what it does not read, only zeros, or a risk that
                a model of single values cannot tell.
        """
        super().__init__(settings, lent)
        readers = self.lent.readers
        if settings.name not in readers:
            raise SettingsError(
                f"the reward 'Model' needs a model called '{settings.name}' and none was lent",
                hint=nearest(settings.name, list(readers)),
            )
        self._reader: Reader = readers[settings.name]
        self._weights = _weights(settings, self._reader)

    @property
    def range(self) -> Range:
        """From the least that negative weights can give to the most that positive ones can."""
        total = math.fsum(abs(weight) for weight in self._weights.values())
        low = math.fsum(min(0.0, weight) for weight in self._weights.values()) / total
        return Range(low, low + 1.0)

    def judge(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Score]:
        """See the module."""
        read = self._reader.read(items, traces)
        return [self._of(values, trace.text) for values, trace in zip(read, traces, strict=True)]

    def _of(self, values: Sequence[Sequence[float]] | None, text: str) -> Score:
        if self.settings.empty == "least" and not text.strip():
            return Score(self.range.low, "the answer is empty")
        if values is None:
            return Score(None, "the reward model cannot read the answer", abstained=True)
        worth = dict(zip(self._weights, (self._worth(one) for one in values), strict=True))
        total = math.fsum(abs(weight) for weight in self._weights.values())
        summed = math.fsum(weight * worth[name] for name, weight in self._weights.items() if weight)
        return Score(summed / total, "", worth)

    def _worth(self, values: Sequence[float]) -> float:
        if self.settings.risk == "mean":
            return math.fsum(values) / len(values)
        if self.settings.risk == "quantile":
            return _between(self._reader.levels, values, self.settings.level)
        number = max(1, sum(level <= self.settings.tail for level in self._reader.levels))
        return math.fsum(sorted(values)[:number]) / number


def _between(levels: Sequence[float], values: Sequence[float], level: float) -> float:
    """The value at a level, on the line between the two nearest; beyond the outer ones, theirs."""
    above = bisect.bisect_left(levels, level)
    if above in (0, len(levels)):
        return values[min(above, len(levels) - 1)]
    share = (level - levels[above - 1]) / (levels[above] - levels[above - 1])
    return values[above - 1] + share * (values[above] - values[above - 1])


def _weights(settings: ModelSettings, reader: Reader) -> dict[str, float]:
    """The weight of every attribute, in the reader's order."""
    known = reader.attributes
    for name in settings.weights:
        if name not in known:
            raise SettingsError(
                f"the reward model has no attribute '{name}'", place="model.weights", hint=nearest(name, list(known))
            )
    if settings.risk != "mean" and not reader.levels:
        raise SettingsError(
            "the reward model gives single values, which say nothing of risk",
            place="model.risk",
            hint="train it with the objective quantile, or set risk: mean",
        )
    weights = {name: settings.weights.get(name, 0.0) for name in known} if settings.weights else dict(known)
    if not any(weights.values()):
        raise SettingsError("at least one attribute needs a weight", place="model.weights")
    return weights
