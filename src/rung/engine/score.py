"""Log-probabilities of given continuations. Each distinct context is computed once, not at all when another begins with
it, and what contexts begin with in common only once: a critic's prompts share most of their tokens.

Legend: D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from rung.base.errors import DataError
from rung.engine.forward import Forward
from rung.engine.head import Head
from rung.engine.jobs import with_start
from rung.engine.tree import LEAST_SHARED, TreeAttend, grow, num_common
from rung.models.families.fallback import Fallback
from rung.models.layers.attend import PackedAttend
from rung.models.network import Attend
from rung.records.contracts import Scored
from rung.records.tokenizer import Tokenizer

__all__ = ["Pair", "make_pairs", "score_pairs"]

_HEAD_ROWS = 256


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt with its start ids, and a continuation tokenised apart from it."""

    prompt_ids: tuple[int, ...]
    continuation_ids: tuple[int, ...]


@dataclass(slots=True)
class _Document:
    """Ids that go through the model, and which token's log-probability is wanted after which position."""

    ids: tuple[int, ...]
    wanted: list[tuple[int, int, tuple[int, int]]] = field(default_factory=list)  # position, token, (pair, offset)


def make_pairs(
    prompts: Sequence[str], continuations: Sequence[str], tokenizer: Tokenizer, max_context: int
) -> list[Pair]:
    """Tokenise and check; `max_context` 0 is unlimited.

    Raises:
        DataError: unequal numbers, a continuation with nothing before it, or a pair longer than `max_context`.
    """
    if len(prompts) != len(continuations):
        raise DataError(f"{len(prompts)} prompts and {len(continuations)} continuations cannot be paired")
    heads, tails = tokenizer.encode_batch(prompts), tokenizer.encode_batch(continuations)
    pairs = [Pair(with_start(head, tokenizer), tuple(tail)) for head, tail in zip(heads, tails, strict=True)]
    for index, pair in enumerate(pairs):
        length = len(pair.prompt_ids) + len(pair.continuation_ids)
        if pair.continuation_ids and not pair.prompt_ids:
            raise DataError(
                "the prompt is empty and this model has no start token: the first token has no context",
                place=f"pair {index}",
            )
        if max_context and length > max_context:
            raise DataError(
                f"the prompt has {len(pair.prompt_ids)} tokens and its continuation {len(pair.continuation_ids)}: "
                f"{length} do not fit the limit of {max_context}",
                place=f"pair {index}",
            )
    return pairs


@torch.inference_mode()
def score_pairs(forward: Forward, head: Head, pairs: Sequence[Pair], token_budget: int) -> list[Scored]:
    """Scores in order; a forward takes documents of together at most `token_budget` tokens, or a single longer one."""
    logprobs = [[0.0] * len(pair.continuation_ids) for pair in pairs]
    for pack in _packs(_documents(pairs), token_budget):
        _score_pack(forward, head, pack, logprobs)
    return [Scored(pair.continuation_ids, tuple(values)) for pair, values in zip(pairs, logprobs, strict=True)]


def _documents(pairs: Sequence[Pair]) -> list[_Document]:
    """Distinct contexts; one that begins another rides on it, for what follows cannot change what came before."""
    wanted: dict[tuple[int, ...], list[tuple[int, int, tuple[int, int]]]] = {}
    for index, pair in enumerate(pairs):
        if pair.continuation_ids:
            first = len(pair.prompt_ids) - 1
            wanted.setdefault((*pair.prompt_ids, *pair.continuation_ids[:-1]), []).extend(
                (first + offset, token, (index, offset)) for offset, token in enumerate(pair.continuation_ids)
            )
    documents: list[_Document] = []
    for ids in sorted(wanted, reverse=True):  # whatever begins with `ids` comes right before it
        if not documents or documents[-1].ids[: len(ids)] != ids:
            documents.append(_Document(ids))
        documents[-1].wanted += wanted[ids]
    return documents


def _packs(documents: list[_Document], token_budget: int) -> list[list[_Document]]:
    """Neighbours in the order of their ids together: what they share counts once."""
    packs: list[list[_Document]] = []
    room = 0
    for document in sorted(documents, key=lambda d: d.ids):
        new = len(document.ids) - (num_common(packs[-1][-1].ids, document.ids) if packs else 0)
        if not packs or new > room:
            packs.append([])
            room, new = token_budget, len(document.ids)
        packs[-1].append(document)
        room -= new
    return packs


def _score_pack(forward: Forward, head: Head, pack: list[_Document], logprobs: list[list[float]]) -> None:
    # a wrapped model attends in its own way, to whole documents
    whole = isinstance(forward.network, Fallback)
    tree = grow([document.ids for document in pack], least_shared=2**31 if whole else LEAST_SHARED)
    ids = [token for segment in tree.segments for token in segment.ids]
    positions = [place for segment in tree.segments for place in range(segment.start, segment.start + len(segment.ids))]
    attend: Attend = (
        PackedAttend([[len(segment.ids) for segment in tree.segments]]) if whole else TreeAttend(tree, forward.device)
    )
    hidden_TD = forward.hidden([ids], [positions], attend)[0]
    paths = tree.paths()
    wanted: dict[int, list[tuple[int, tuple[int, int]]]] = {}
    for document, end in zip(pack, tree.ends, strict=True):
        for position, token, where in document.wanted:
            wanted.setdefault(paths[end][position], []).append((token, where))
    rows = sorted(wanted)
    for begin in range(0, len(rows), _HEAD_ROWS):
        piece = rows[begin : begin + _HEAD_ROWS]
        asked = [(row, token, where) for row, place in enumerate(piece) for token, where in wanted[place]]
        values = head.logprobs(
            hidden_TD[piece],
            torch.tensor([row for row, _, _ in asked], device=hidden_TD.device),
            torch.tensor([token for _, token, _ in asked], device=hidden_TD.device),
        ).tolist()
        for value, (_, _, (pair, offset)) in zip(values, asked, strict=True):
            logprobs[pair][offset] = value
