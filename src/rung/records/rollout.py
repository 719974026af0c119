"""What a policy did on one prompt, as token ids: sampled tokens, and what was put between them.

Legend: V vocabulary.

Token ids are the truth. A sampled token keeps the log-probability of the distribution that it was really drawn from,
and which tokens could have been drawn there: the trainer renormalises over the same ones, or its ratio to the sampler
is biased before a weight has moved (top-k, top-p and grammars all cut the distribution).
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rung.base.errors import DataError

__all__ = ["Rollout", "Support"]


@dataclass(frozen=True, slots=True)
class Support:
    """Which tokens of a vocabulary could be drawn at one place; made by `of_mask` or `of_ids`.

    `data` are the sorted ids (int32, little-endian) or one bit per token of the vocabulary, whichever is smaller; the
    same tokens of the same vocabulary are always kept in the same way, so equal supports compare equal.
    """

    vocabulary: int
    num: int
    data: bytes

    @classmethod
    def of_mask(cls, mask_V: NDArray[np.bool_]) -> Support:
        """The tokens whose entry is true."""
        size, num = len(mask_V), int(np.count_nonzero(mask_V))
        if _is_sparse(size, num):
            return cls(size, num, np.flatnonzero(mask_V).astype("<i4").tobytes())
        return cls(size, num, np.packbits(mask_V).tobytes())

    @classmethod
    def of_ids(cls, ids: Sequence[int] | NDArray[np.integer[Any]], vocabulary: int) -> Support:
        """These tokens, in any order, each once.

        Raises:
            DataError: an id outside the vocabulary, or one that is there twice.
        """
        sorted_ids = np.sort(np.asarray(ids, np.int64))
        if ((sorted_ids < 0) | (sorted_ids >= vocabulary)).any():
            raise DataError(f"a token id is outside the vocabulary of {vocabulary}", place="support")
        if (sorted_ids[1:] == sorted_ids[:-1]).any():
            raise DataError("a token id is there twice", place="support")
        if _is_sparse(vocabulary, len(sorted_ids)):
            return cls(vocabulary, len(sorted_ids), sorted_ids.astype("<i4").tobytes())
        mask_V = np.zeros(vocabulary, bool)
        mask_V[sorted_ids] = True
        return cls.of_mask(mask_V)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Support:
        """What `to_json` wrote."""
        size, num = int(value["vocabulary"]), int(value["num"])
        support = cls(size, num, base64.b64decode(value["data"], validate=True))
        if not 0 <= num <= size or int(np.count_nonzero(support.mask(size))) != num:
            raise DataError(f"its data does not hold {num} tokens of {size}", place="support")
        return support

    def to_json(self) -> dict[str, Any]:
        """Plain values for a record."""
        return {"vocabulary": self.vocabulary, "num": self.num, "data": base64.b64encode(self.data).decode("ascii")}

    def ids(self) -> NDArray[np.int64]:
        """The tokens, in ascending order."""
        if _is_sparse(self.vocabulary, self.num):
            return np.frombuffer(self.data, "<i4").astype(np.int64)
        return np.flatnonzero(self.mask(self.vocabulary))

    def mask(self, vocabulary: int) -> NDArray[np.bool_]:
        """True at the tokens, for a vocabulary of at least the support's own size; what is beyond that is false.

        Raises:
            DataError: the vocabulary is smaller.
        """
        if vocabulary < self.vocabulary:
            raise DataError(f"it is of a vocabulary of {self.vocabulary}, not of {vocabulary}", place="support")
        mask_V = np.zeros(vocabulary, bool)
        if _is_sparse(self.vocabulary, self.num):
            mask_V[np.frombuffer(self.data, "<i4")] = True
        else:
            bits = np.frombuffer(self.data, np.uint8)
            mask_V[: self.vocabulary] = np.unpackbits(bits, count=self.vocabulary)
        return mask_V

    def __len__(self) -> int:
        return self.num

    def __contains__(self, token: int) -> bool:
        if not 0 <= token < self.vocabulary:
            return False
        if not _is_sparse(self.vocabulary, self.num):
            return bool(self.data[token >> 3] >> (7 - (token & 7)) & 1)
        ids = np.frombuffer(self.data, "<i4")
        place = int(np.searchsorted(ids, token))
        return place < len(ids) and int(ids[place]) == token


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sequence that a policy made, with all that a trainer needs to know of it.

    `token_ids` are everything after the prompt: what was sampled, and what was inserted (tool output, a second user
    turn); only the sampled ones are trained. `logprobs` (nats) are of the distribution that each was really drawn
    from, under `temperature`, 0.0 where inserted. `supports` say which tokens could be drawn (None: every one; an
    empty tuple: every one at every place), `entropies` (nats) how open the choice was, `truncated` that a limit ended
    it. `group` is the same for all rollouts of one prompt.
    """

    id: str
    group: int
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    sampled: tuple[bool, ...]
    logprobs: tuple[float, ...]
    temperature: float = 1.0
    supports: tuple[Support | None, ...] = ()
    entropies: tuple[float, ...] = ()
    truncated: bool = False

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise DataError("it has no prompt to go on from", place=self._place)
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise DataError(
                f"its temperature is {self.temperature}",
                place=self._place,
                hint="greedy answers are not samples of a policy: draw with a temperature above 0",
            )
        for name in ("sampled", "logprobs", "supports", "entropies"):
            num = len(getattr(self, name))
            if num != len(self.token_ids) and (num or name in ("sampled", "logprobs")):
                raise DataError(f"{len(self.token_ids)} tokens but {num} {name}", place=self._place)
        self._check_sampled()

    @property
    def num_tokens(self) -> int:
        """Length with the prompt."""
        return len(self.prompt_ids) + len(self.token_ids)

    @property
    def num_sampled(self) -> int:
        """How many tokens the policy itself drew."""
        return sum(self.sampled)

    @property
    def _place(self) -> str:
        return f"rollout '{self.id}'"

    def _check_sampled(self) -> None:
        supports = self.supports or (None,) * len(self.token_ids)
        for at, (token, sampled, logprob) in enumerate(zip(self.token_ids, self.sampled, self.logprobs, strict=True)):
            support = supports[at]
            if sampled and not math.isfinite(logprob):
                raise DataError(f"token {at} was sampled with log-probability {logprob}", place=self._place)
            if sampled and support is not None and token not in support:
                raise DataError(f"token {at} (id {token}) was sampled outside its own support", place=self._place)


def _is_sparse(vocabulary: int, num: int) -> bool:
    """Whether ids take no more room than bits."""
    return 4 * num <= -(-vocabulary // 8)
