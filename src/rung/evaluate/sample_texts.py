"""What a few sampled texts say about a model in training: whether it repeats itself, ends, and writes what parses."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Sequence

__all__ = ["distinct_share", "parses", "sample_figures"]


def distinct_share(texts: Sequence[str], size: int = 3) -> float:
    """Different runs of `size` words over all runs of all texts; 1.0 where there is none."""
    split = [text.split() for text in texts]
    runs = [tuple(words[i : i + size]) for words in split for i in range(len(words) - size + 1)]
    return len(set(runs)) / len(runs) if runs else 1.0


def parses(text: str) -> bool:
    """Whether a text is Python: its longest beginning of whole lines is looked at, for a sample may be cut anywhere."""
    lines = text.split("\n")
    for num in (len(lines), len(lines) - 1):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if ast.parse("\n".join(lines[:num])).body:
                    return True
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return False


def sample_figures(texts: Sequence[str], ended: Sequence[bool], *, python: bool = False) -> dict[str, float]:
    """Figures of a round of samples; `ended` says which of them the model ended itself."""
    found = {"distinct_3": distinct_share(texts), "ended": sum(ended) / max(len(ended), 1)}
    return {**found, "parses": sum(map(parses, texts)) / max(len(texts), 1)} if python else found
