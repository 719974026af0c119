"""Seeds: every random choice has its own, derived by name, so that order of work never changes a result."""

from __future__ import annotations

import hashlib
import random

__all__ = ["derive", "stream", "uniform"]


def derive(seed: int, *names: object) -> int:
    """A 63-bit seed for the thing called `names` under `seed`; the same on every machine and Python version."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def stream(seed: int, *names: object) -> random.Random:
    """An independent random stream for the thing called `names`."""
    return random.Random(derive(seed, *names))


def uniform(seed: int, step: int) -> float:
    """A number in [0, 1) that depends on (seed, step) alone: sampling noise that no batch neighbour can shift."""
    digest = hashlib.blake2b(f"{seed}:{step}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53
