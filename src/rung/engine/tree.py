"""Documents that begin alike, as a tree of segments: what they share goes through the model once.

Legend: T tokens of all segments in one row, H query heads, K key/value heads, d head width, G segments of one shape,
N tokens of each, L positions each looks at (those before it on its path, and its own).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["LEAST_SHARED", "Segment", "Tree", "TreeAttend", "grow", "num_common"]

LEAST_SHARED = 8  # fewer common tokens cost less again than another segment does in every layer


@dataclass(frozen=True, slots=True)
class Segment:
    """`ids` from position `start`, right after segment `parent` (-1: at the beginning)."""

    parent: int
    start: int
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tree:
    """Segments, parents before children, and for every document the segment that it ends with."""

    segments: tuple[Segment, ...]
    ends: tuple[int, ...]

    def paths(self) -> list[list[int]]:
        """For every segment, the rows of its document so far: all segments stand one after another in one row."""
        found: list[list[int]] = []
        at = 0
        for segment in self.segments:
            before = found[segment.parent] if segment.parent >= 0 else []
            found.append([*before, *range(at, at + len(segment.ids))])
            at += len(segment.ids)
        return found


def grow(documents: Sequence[tuple[int, ...]], least_shared: int = LEAST_SHARED) -> Tree:
    """The tree of `documents`: sorted, different, none the beginning of another, none empty.

    A common part shorter than `least_shared` is not shared.
    """
    segments: list[Segment] = []
    ends = [0] * len(documents)
    waiting = [(0, len(documents), -1, 0, 0)]  # documents from, to; the segment they follow, its end; common so far
    while waiting:
        first, stop, parent, start, known = waiting.pop()
        common = num_common(documents[first], documents[stop - 1], known)
        if stop - first == 1 or common - start >= least_shared:
            segments.append(Segment(parent, start, documents[first][start:common]))
            parent, start = len(segments) - 1, common
        if stop - first == 1:
            ends[first] = parent
            continue
        for _, group in groupby(range(first, stop), key=lambda place: documents[place][common]):
            places = list(group)
            waiting.append((places[0], places[-1] + 1, parent, start, common))
    return Tree(tuple(segments), tuple(ends))


def num_common(one: Sequence[int], other: Sequence[int], known: int = 0) -> int:
    """How many tokens two documents begin with in common; the first `known` are."""
    if one == other:
        return len(one)
    most = min(len(one), len(other))
    return next((place for place in range(known, most) if one[place] != other[place]), most)


class TreeAttend:
    """Every token looks at what stands before it on its own path. Segments of equal shape run as one batch."""

    def __init__(self, tree: Tree, device: torch.device) -> None:
        shapes: dict[tuple[int, int], list[list[int]]] = {}
        for segment, path in zip(tree.segments, tree.paths(), strict=True):
            shapes.setdefault((segment.start, len(segment.ids)), []).append(path)
        self._groups = [
            (start, torch.tensor(paths, device=device)) for (start, _), paths in sorted(shapes.items())
        ]  # fmt: skip
        self._masks: dict[tuple[int, int, int], Tensor] = {}

    def __call__(
        self, layer: int, query_BTHd: Tensor, key_BTKd: Tensor, value_BTKd: Tensor, *, scale: float, window: int
    ) -> Tensor:
        """Attention output [1, T, H, d]; see `rung.models.network.Attend`."""
        query_THd, key_TKd, value_TKd = query_BTHd[0], key_BTKd[0], value_BTKd[0]
        out_THd = torch.zeros_like(query_THd)
        for start, paths_GL in self._groups:
            own_GN = paths_GL[:, start:]
            seen_GHNd = functional.scaled_dot_product_attention(
                query_THd[own_GN].transpose(1, 2),
                key_TKd[paths_GL].transpose(1, 2),
                value_TKd[paths_GL].transpose(1, 2),
                attn_mask=self._mask(start, paths_GL.shape[1], window) if start or window else None,
                is_causal=not (start or window),
                scale=scale,
                enable_gqa=query_THd.shape[1] != key_TKd.shape[1],
            )
            out_THd[own_GN] = seen_GHNd.transpose(1, 2)
        return out_THd[None]

    def _mask(self, start: int, length: int, window: int) -> Tensor:
        """True where the token at position `start` + row may look at position `column`; [N, L]."""
        key = (start, length, window)
        if key not in self._masks:
            device = self._groups[0][1].device
            query = torch.arange(start, length, device=device)[:, None]
            place = torch.arange(length, device=device)[None]
            seen = place <= query
            self._masks[key] = seen & (place > query - window) if window else seen
        return self._masks[key]
