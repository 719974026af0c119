"""Groups taking turns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.base.turns import take_turns


@pytest.mark.parametrize(
    ("groups", "count", "expected"),
    [
        (["aaa", "b", "cc"], 5, "abcac"),
        (["aaa", "b", "cc"], 2, "ab"),
        (["aaa", "b", "cc"], 9, "abcaca"),
        (["", "b"], 3, "b"),
        ([], 3, ""),
        (["ab"], 0, ""),
    ],
)
def test_each_group_gives_its_next_in_turn(groups: list[str], count: int, expected: str) -> None:
    assert "".join(take_turns(groups, count)) == expected


@given(st.lists(st.lists(st.integers(), max_size=9), max_size=6), st.integers(0, 40))
def test_no_group_is_more_than_one_ahead_of_another_that_still_has_items(groups: list[list[int]], count: int) -> None:
    named = [[(number, place) for place in range(len(group))] for number, group in enumerate(groups)]
    taken = take_turns(named, count)
    assert len(taken) == min(count, sum(map(len, groups)))
    shares = [sum(number == one for number, _ in taken) for one in range(len(groups))]
    for share, group in zip(shares, groups, strict=True):
        assert share == len(group) or max(shares) <= share + 1
