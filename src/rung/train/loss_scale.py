"""Dynamic loss scaling (Micikevicius et al. 2018, "Mixed Precision Training", arXiv 1710.03740), for float16.

Small gradients are nought in float16, so the loss is multiplied by a scale before its gradient is taken, and the
gradient divided by it after. Where a scaled gradient is too large for float16 the update is left out and the scale
halved; after many updates in a row it is doubled. Scales are powers of two: multiplying and dividing rounds nothing.

The constants and the course of the scale are those of `torch.amp.GradScaler`. It is not used itself because it would
look for overflows a second time, and have ranks agree on them a second time, where the norm of the whole gradient that
every step computes tells all ranks the same; because its state lives beside a run's, which is one immutable value; and
because it halves for ever: here an overflow at the floor is divergence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["LossScale"]

_GROWTH_INTERVAL = 2000
_FLOOR = 1.0


@dataclass(frozen=True, slots=True)
class LossScale:
    """What the next loss is multiplied by; how many updates there were in a row since it last changed, and how many
    steps were left without one in all."""

    value: float = 2.0**16
    num_good: int = 0
    num_skipped: int = 0

    @property
    def may_shrink(self) -> bool:
        """Whether an overflow can still be the scale's fault; at the floor it is the loss's."""
        return self.value > _FLOOR

    def after(self, updated: bool) -> LossScale:
        """What comes after a step that updated the weights, or had to leave them."""
        if not updated:
            return LossScale(self.value / 2, 0, self.num_skipped + 1)
        if self.num_good + 1 < _GROWTH_INTERVAL:
            return replace(self, num_good=self.num_good + 1)
        return LossScale(self.value * 2, 0, self.num_skipped)
