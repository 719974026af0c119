"""Free text first, then a constrained part: `{"after": {"marker": "</think>", "then": {"json_schema": {...}}}}`.

Anything may be written until the marker stands there, for the first time; from then on the inner constraint holds. A
grammar during reasoning costs accuracy (Tam et al. 2024, arXiv 2408.02442), so the reasoning is left free. The closing
guarantee is that of all kinds: near the limit, or when `at_most` tokens are written, the marker is forced while the
inner part can still finish. `rung.engine.constraints.parts` takes the two parts of a text.

The marker is a text and not a reserved token of a model: those have no bytes, and no constraint writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rung.base.errors import ModelError, SettingsError
from rung.base.settings import Field, Settings, validate
from rung.engine.constraints.compiling import compile_rule
from rung.engine.constraints.free_text import FreeText
from rung.engine.constraints.matching import Fitting, Spellings
from rung.engine.constraints.places import NEVER
from rung.engine.constraints.protocol import Constraint, State

__all__ = ["compile_after"]


class AfterSettings(Settings):
    """Where the free text ends, and what comes then."""

    marker: str = Field(min_length=1, max_length=64, description="text that ends the free part and belongs to it")
    then: dict[str, Any] = Field(description="the constraint of everything after the marker, {kind: what}")
    at_most: int | None = Field(
        None, ge=1, description="tokens of the free part, its marker included; null: as many as the limit leaves"
    )


def compile_after(what: Any, spellings: Spellings) -> Constraint:
    """The constraint of free text, a marker, and a text of another constraint.

    Raises:
        SettingsError: wrong settings, an inner constraint that is wrong, or `at_most` below what the marker takes.
        MissingDependency: the inner kind needs a package that is not installed.
    """
    if not isinstance(what, Mapping):
        raise SettingsError(f"{what!r} are no settings", place="constraint", hint="name a marker and what comes then")
    settings = validate(AfterSettings, what, "constraint")
    try:
        free = FreeText(settings.marker.encode(), spellings)
    except UnicodeEncodeError as error:
        raise SettingsError(f"{settings.marker!r} has half a character", place="constraint.marker") from error
    if settings.at_most is not None and settings.at_most < free.cost[0]:
        raise SettingsError(
            f"at_most is {settings.at_most}, and the marker takes {free.cost[0]} tokens",
            place="constraint.at_most",
            hint=f"set it to {free.cost[0]} or more",
        )
    inner = compile_rule(settings.then, spellings, "constraint.then")
    return _After(free, inner, settings.at_most, spellings)


class _After:
    """The free text and the constraint after it, shared by all sequences."""

    def __init__(self, free: FreeText, inner: Constraint, at_most: int | None, spellings: Spellings) -> None:
        self.free, self.inner, self.at_most, self.vocabulary = free, inner, at_most, spellings.vocabulary
        self.needed = inner.start().shortest()
        self._beyond: dict[int, Fitting | None] = {}

    def start(self) -> State:
        """Before the free text."""
        return _Spot(self)

    def begun(self, data: bytes) -> State | None:
        """As `Constraint.begun`."""
        spot = _Spot(self)
        return spot if spot.read(data) else None

    def beyond(self, place: int) -> Fitting | None:
        """Tokens that end the marker and begin what comes then, with what suffices after them; None: there are none."""
        if place not in self._beyond:
            begun = [(token, self.inner.begun(data)) for token, data in self.free.free(place).beyond]
            left = {token: state.shortest() or 0 for token, state in begun if state is not None}
            self._beyond[place] = self._fitting(left) if left else None
        return self._beyond[place]

    def _fitting(self, left: dict[int, int]) -> Fitting:
        ids, numbers = torch.tensor([*left]), torch.tensor([*left.values()])
        return Fitting(ids, numbers, sorted({*left.values()}), (), len(self.vocabulary.tokens))


class _Spot:
    """One sequence's place: a state of the free text and the tokens written there, or a place in what comes then."""

    def __init__(self, after: _After) -> None:
        self._after, self._place, self._num_written = after, 0, 0
        self._inner: State | None = None

    def allowed(self, remaining: int) -> Tensor:
        """See `State.allowed`. The mask may be shared: not to be changed."""
        if self._inner is not None:
            return self._inner.allowed(remaining)
        after = self._after
        bound = remaining - (after.needed or 0)
        if after.at_most is not None:
            bound = min(bound, after.at_most - self._num_written)
        mask_V = after.free.free(self._place).within.within(bound)
        if (beyond := after.beyond(self._place)) is not None:
            mask_V = mask_V | beyond.within(remaining)
        if not bool(mask_V.any()):
            raise ModelError(
                f"no token fits: {self.shortest()} complete the text and {remaining} are left",
                place="constraint after",
                hint="raise max_new_tokens",
            )
        return mask_V

    def advance(self, token: int) -> None:
        """See `State.advance`."""
        if self._inner is not None:
            return self._inner.advance(token)
        data = self._after.vocabulary.tokens[token]
        if not data or not self.read(data):
            raise ModelError(f"token {token} ({data!r}) does not fit here", place="constraint after")
        self._num_written += 1
        return None

    def read(self, data: bytes) -> bool:
        """Take bytes of the free text, and those beyond its marker; False: no text goes on so."""
        found = self._after.free.read(self._place, data)
        if found is None:
            return False
        self._place, rest = found
        if self._place < 0:
            self._inner = self._after.inner.begun(rest)
            return self._inner is not None
        return self._after.free.cost[self._place] < NEVER

    def complete(self) -> bool:
        """See `State.complete`."""
        return self._inner is not None and self._inner.complete()

    def over(self) -> bool:
        """See `State.over`."""
        return self._inner is not None and self._inner.over()

    def shortest(self) -> int | None:
        """See `State.shortest`."""
        if self._inner is not None:
            return self._inner.shortest()
        needed = self._after.needed
        return None if needed is None else self._after.free.cost[self._place] + needed

    def forced(self) -> bytes:
        """See `State.forced`; nothing is certain in free text."""
        return self._inner.forced() if self._inner is not None else b""
