"""A trained reward model in use: what it says of answers, in numbers that mean the same for every kind.

Legend: C answer, A attribute, K output, L value.

Every attribute is read in shares: 0 to 1 of its label's scale, or for a model of preferences the chance to beat an
answer of middling score. A model with levels gives a value for each, in rising order. A hierarchical model reads the
steps of an answer one by one and the whole beside them, and adds their combination as an attribute of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pydantic

from rung.base.lookup import part
from rung.base.settings import Field, Settings
from rung.models.network import Network
from rung.records.chat.frame import Frame
from rung.records.contracts import Item, Trace
from rung.records.packing import Example
from rung.records.tokenizer import Tokenizer
from rung.train.reward_rows import RewardData, RewardExample, pack_rewards
from rung.train.step import Precision, reward_outputs

__all__ = ["PREFERENCE", "WHOLE", "RewardFacts", "RewardReader", "steps_of"]

PREFERENCE, WHOLE = "preference", "hierarchical"
_LARGEST = 500.0  # beyond this exp overflows and the logistic is 0 or 1 anyway
Values = tuple[tuple[float, ...], ...]


class RewardFacts(Settings):
    """What must be known of a trained head to read it; saved beside it."""

    objective: str | dict[str, Any] = Field(description="the part of train/objectives that it was trained with")
    attributes: tuple[str, ...] = Field(description="attributes of the labels, in the head's order; empty for pairs")
    means: tuple[float, ...] = Field((), description="per attribute, the mean share of the training labels")
    deviations: tuple[float, ...] = Field((), description="per attribute, the deviation of those shares")
    centre: float = Field(0.0, description="score of a middling answer, for a model of preferences")
    temperatures: tuple[float, ...] = Field((), description="what logits are divided by, per output; empty: 1")
    offsets: tuple[tuple[float, ...], ...] = Field((), description="per attribute and level, what is added to shares")
    max_tokens: int = Field(1024, ge=8, description="longer answers are not read")

    @pydantic.model_validator(mode="after")
    def _fits(self) -> RewardFacts:
        if any(value <= 0 for value in (*self.deviations, *self.temperatures)):
            raise ValueError("deviations and temperatures are positive")
        return self


@dataclass(frozen=True, slots=True)
class _Asked:
    """One piece of text that goes through the network: which answer it is of, and whether it is all of it."""

    number: int
    whole: bool
    instruction: str
    text: str


class RewardReader:
    """Keeps the promise `rung.scoring.reward.Reader` on a network with a trained head."""

    def __init__(
        self,
        network: Network,
        tokenizer: Tokenizer,
        facts: RewardFacts,
        *,
        tokens_per_batch: int = 4096,
        precision: Precision = "float32",
    ) -> None:
        self.network, self.tokenizer, self.facts = network, tokenizer, facts
        self._tokens_per_batch, self._precision = tokens_per_batch, precision
        kind, own = part("train.objectives", facts.objective, "reward.objective")
        self._objective = kind(own)
        self.levels: tuple[float, ...] = self._objective.levels

    @property
    def attributes(self) -> Mapping[str, float]:
        """What is read, in order, and how much each counts where nobody says so."""
        if hasattr(self._objective, "combined"):
            return {WHOLE: 1.0, **dict.fromkeys(self.facts.attributes, 0.0)}
        return dict.fromkeys(self.facts.attributes or (PREFERENCE,), 1.0)

    def read(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Values | None]:
        """The values of each answer, attributes in order; None for one that is empty or does not fit."""
        asked = [
            piece
            for number, (item, trace) in enumerate(zip(items, traces, strict=True))
            for piece in self._pieces(number, item.instruction, trace.text)
        ]
        found = self.raw([(piece.instruction, piece.text) for piece in asked])
        told: list[list[tuple[_Asked, Values | None]]] = [[] for _ in items]
        for piece, values in zip(asked, found, strict=True):
            told[piece.number].append((piece, values))
        return [self._joined(pieces) for pieces in told]

    def raw(self, texts: Sequence[tuple[str, str]]) -> list[Values | None]:
        """What the objective makes of the head's outputs for each (instruction, response), in the model's own units."""
        examples = []
        for number, (instruction, response) in enumerate(texts):
            rendered = Frame.render(self.tokenizer, instruction, response)
            if response.strip() and len(rendered.token_ids) <= self.facts.max_tokens:
                answer = Example(str(number), rendered)
                examples.append(RewardExample(str(number), "", (answer,)))
        found: list[Values | None] = [None] * len(texts)
        rows = pack_rewards(RewardData(tuple(examples)), range(len(examples)), self._tokens_per_batch)
        for row, outputs_CK in zip(rows, reward_outputs(self.network, rows, self._precision), strict=True):
            for name, values in zip(row.ids, self._objective.values(outputs_CK).tolist(), strict=True):
                found[int(name)] = tuple(tuple(one) for one in values)
        return found

    def _pieces(self, number: int, instruction: str, text: str) -> list[_Asked]:
        """The answer, and for a hierarchical model each of its steps after what came before it."""
        whole = _Asked(number, True, instruction, text)
        if not hasattr(self._objective, "combined"):
            return [whole]
        steps, lines = steps_of(text)
        asked = [_Asked(number, False, "\n".join([instruction, *lines[:n]]), lines[n]) for n in range(steps)]
        return [*asked, whole]

    def _joined(self, pieces: Sequence[tuple[_Asked, Values | None]]) -> Values | None:
        if any(values is None for _, values in pieces):
            return None
        shares = [(piece, self._shares(values)) for piece, values in pieces if values is not None]
        if not hasattr(self._objective, "combined"):
            return shares[-1][1]
        coherence = shares[-1][1][1][0]
        sound = [values[0][0] for piece, values in shares if not piece.whole]
        soundness = math.fsum(sound) / len(sound) if sound else 1.0
        return (self._objective.combined(soundness, coherence),), (soundness,), (coherence,)

    def _shares(self, values: Values) -> Values:
        """Model units to shares; the numbers that are no labels' are logits."""
        if not self.facts.means:
            logits = [(one[0] - self.facts.centre) for one in values]
            scales = self.facts.temperatures or (1.0,) * len(logits)
            return tuple((_logistic(logit / scale),) for logit, scale in zip(logits, scales, strict=True))
        found = []
        for place, one in enumerate(values):
            offsets = self.facts.offsets[place] if self.facts.offsets else (0.0,) * len(one)
            mean, deviation = self.facts.means[place], self.facts.deviations[place]
            shifted = sorted(mean + deviation * v + offset for v, offset in zip(one, offsets, strict=True))
            found.append(tuple(min(1.0, max(0.0, value)) for value in shifted))
        return tuple(found)


def steps_of(text: str) -> tuple[int, list[str]]:
    """How many of an answer's lines are steps, and the lines: the last is the conclusion and no step."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return max(0, len(lines) - 1), lines


def _logistic(nats: float) -> float:
    """1 / (1 + exp(-x)); NaN stays what it is, so that whoever checks values finds it."""
    return nats if math.isnan(nats) else 1 / (1 + math.exp(-min(_LARGEST, max(-_LARGEST, nats))))
