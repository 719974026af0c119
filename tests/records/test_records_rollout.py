"""Rollouts check themselves, and a support is exactly its tokens however it is kept."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.base.errors import DataError
from rung.records.rollout import Rollout, Support


@given(st.integers(1, 700), st.integers(0, 2**32), st.floats(0, 1))
def test_a_support_is_its_tokens_through_every_form(size: int, seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random(size) < share
    support = Support.of_mask(mask)
    ids = np.flatnonzero(mask)
    assert len(support) == len(ids)
    assert np.array_equal(support.mask(size), mask)
    assert np.array_equal(support.ids(), ids)
    assert [token in support for token in range(size + 2)] == [*mask.tolist(), False, False]
    assert Support.of_ids(ids[::-1], size) == support
    assert Support.from_json(json.loads(json.dumps(support.to_json()))) == support
    assert len(support.data) == min(4 * len(ids), -(-size // 8))


def test_supports_differ_where_their_tokens_do() -> None:
    assert Support.of_ids([3, 5], 1000) != Support.of_ids([3, 6], 1000)
    dense = np.ones(1000, bool)
    other = dense.copy()
    other[7] = False
    assert Support.of_mask(dense) != Support.of_mask(other)
    assert len({Support.of_ids([3, 5], 1000), Support.of_ids([5, 3], 1000)}) == 1


def test_a_larger_vocabulary_has_nothing_beyond_a_supports_own() -> None:
    assert Support.of_ids([0, 8], 9).mask(12).tolist() == [True, *[False] * 7, True, False, False, False]
    with pytest.raises(DataError, match="vocabulary of 9, not of 8"):
        Support.of_ids([0, 8], 9).mask(8)


@pytest.mark.parametrize("ids", [[-1, 2], [4], [1, 1]])
def test_a_support_refuses_ids_that_are_none(ids: list[int]) -> None:
    with pytest.raises(DataError):
        Support.of_ids(ids, 4)


def test_a_support_refuses_data_that_is_not_its_own() -> None:
    written = Support.of_ids([1, 2], 1000).to_json()
    with pytest.raises(DataError, match="does not hold 3"):
        Support.from_json({**written, "num": 3})


ROLLOUT = Rollout("a", 0, (5,), (1, 2, 3), (True, False, True), (-0.5, 0.0, -0.1))


def test_a_rollout_counts_what_was_sampled() -> None:
    assert (ROLLOUT.num_tokens, ROLLOUT.num_sampled) == (4, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_ids": ()}, "no prompt"),
        ({"temperature": 0.0}, "greedy"),
        ({"temperature": float("inf")}, "temperature"),
        ({"sampled": (True, False)}, "3 tokens but 2 sampled"),
        ({"sampled": ()}, "3 tokens but 0 sampled"),
        ({"logprobs": ()}, "3 tokens but 0 logprobs"),
        ({"supports": (None,)}, "3 tokens but 1 supports"),
        ({"entropies": (0.1, 0.2)}, "3 tokens but 2 entropies"),
        ({"logprobs": (float("-inf"), 0.0, -0.1)}, "token 0 was sampled with"),
        ({"supports": (None, None, Support.of_ids([1, 2], 9))}, r"token 2 \(id 3\) was sampled outside"),
    ],
)
def test_a_rollout_that_cannot_be_trained_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        replace(ROLLOUT, **changes)  # type: ignore[arg-type]
    assert "rollout 'a'" in str(error.value)


def test_an_inserted_token_may_lie_outside_any_support() -> None:
    assert replace(ROLLOUT, supports=(None, Support.of_ids([9], 10), None)).num_sampled == 2
