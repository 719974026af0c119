"""What a critic is: a scorer that also explains itself as a `Critique`, and that took only a model fit to judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from rung.base.errors import ModelError
from rung.records.contracts import Completer, Item, Score, Trace
from rung.records.types import Critique

__all__ = ["BothOrders", "Critic", "Swappable", "admit", "undecided"]


@runtime_checkable
class Critic(Protocol):
    """A judge that can be calibrated.

    `score` and `critique` see the same thing: `Score.value` is `Critique.rank`; an abstention (value None) is a
    critique that is neither good nor confident, says so in its reason and takes no part in a ranking. A component
    `extra_margin` of a score is what its rubric asks for beyond the critic's threshold. `with_threshold` gives the
    same critic deciding at another threshold; `record` is what the manifest of whatever it gates says about it, with
    its name under `critic`.
    """

    def score(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Score]:
        """One score per (item, trace) pair, in order."""

    def critique(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Critique]:
        """One critique per (item, trace) pair, in order."""

    def with_threshold(self, threshold: float) -> Critic:
        """The same critic, confident from another margin on."""

    def record(self) -> Mapping[str, Any]:
        """Kind, settings, rubrics with their hashes, and whether its model came through the clean loader."""


@dataclass(frozen=True, slots=True)
class BothOrders:
    """Signed margins of the same answers with the labels as written and with the labels exchanged."""

    as_written: tuple[float, ...]
    exchanged: tuple[float, ...]


@runtime_checkable
class Swappable(Protocol):
    """A critic that reads labels from a prompt, so that exchanging them shows its position bias."""

    def both_orders(self, items: Sequence[Item], traces: Sequence[Trace]) -> BothOrders:
        """The signed margins (good minus bad, nats) in both label orders."""


def admit(completer: Completer, critic: str, allow_unclean_model: bool) -> bool:
    """Whether the model is clean; refuses a model that may not judge.

    Raises:
        ModelError: it cannot score given text, or it did not come through the clean loader and nothing allows that.
    """
    able = completer.capabilities()
    if not able.score:
        raise ModelError(
            f"the critic '{critic}' needs log-probabilities of given text and '{able.name}' does not give them",
            hint="use a local model loaded by rung.models.load",
        )
    if not able.clean and not allow_unclean_model:
        raise ModelError(
            f"the critic '{critic}' takes only a model that came through the clean loader; '{able.name}' did not",
            hint="load it with rung.models.load, or set allow_unclean_model: true, which the manifest records",
        )
    return able.clean


def undecided(critic: str, threshold: float, reason: str) -> Critique:
    """The critique of an answer that the critic abstains from: rejected, never accepted, with its reason."""
    return Critique(
        critic=critic,
        is_good=False,
        confident=False,
        predicted_label="B",
        logp_a=0.0,
        logp_b=0.0,
        margin=0.0,
        signed_margin=0.0,
        confidence_threshold=threshold,
        reason=reason,
    )
