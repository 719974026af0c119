"""Rollouts in rows: every sampled token once, prompts as seldom as the room allows, nothing that predicts nothing."""

from __future__ import annotations

import random

import pytest

from rung.records.group_packing import RolloutRow, pack_rollouts
from rung.records.rollout import Rollout


def made(lengths: list[list[int]], prompt: int = 5, seed: int = 0) -> list[Rollout]:
    """Groups of rollouts of these lengths, all tokens sampled."""
    draw, found = random.Random(seed), []
    for group, own in enumerate(lengths):
        prompt_ids = tuple(draw.randrange(100) for _ in range(prompt))
        for number, length in enumerate(own):
            ids = tuple(draw.randrange(100) for _ in range(length))
            found.append(Rollout(f"{group}-{number}", group, prompt_ids, ids, (True,) * length, (-1.0,) * length))
    return found


def told(row: RolloutRow, rollouts: list[Rollout]) -> dict[int, list[tuple[int, list[int]]]]:
    """Of every rollout, (offset, all that the source of that target sees, read off the row alone)."""
    found: dict[int, list[tuple[int, list[int]]]] = {}
    spans, at = [], 0
    for prompt, lengths in row.groups:
        begin = at + prompt
        for length in lengths:
            spans.append((at, at + prompt, begin, begin + length))
            begin += length
        at = begin
    start = 0
    for place, count, (first, last, begin, _) in zip(row.rollouts, row.counts, spans, strict=True):
        for n in range(start, start + count):
            source = int(row.sources[n])
            context = [*range(first, min(last, source + 1)), *range(begin, source + 1)]
            assert row.positions[context].tolist() == list(range(len(context)))
            assert row.targets[n] == rollouts[place].token_ids[row.offsets[n]]
            found.setdefault(place, []).append((int(row.offsets[n]), row.token_ids[context].tolist()))
        start += count
    return found


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("max_tokens", [1000, 40, 17, 6])
def test_every_sampled_token_is_predicted_once_from_all_before_it(max_tokens: int, share: bool) -> None:
    rollouts = made([[4, 9, 1], [7], [1, 1], [12, 3, 3, 3]])
    rows = pack_rollouts(rollouts, max_tokens, share)
    found: dict[int, list[tuple[int, list[int]]]] = {}
    for row in rows:
        assert sum(prompt + sum(lengths) for prompt, lengths in row.groups) == len(row.token_ids)
        assert len(row.token_ids) <= max(max_tokens, 5 + 11)
        assert not found.keys() & told(row, rollouts).keys()  # a sequence is never parted
        found |= told(row, rollouts)
    for place, rollout in enumerate(rollouts):
        whole = [*rollout.prompt_ids, *rollout.token_ids]
        assert found[place] == [(at, whole[: 5 + at]) for at in range(len(rollout.token_ids))]
    sizes = [len(row.token_ids) for row in rows]
    assert sizes == sorted(sizes, reverse=True)


def test_a_prompt_stands_once_and_last_tokens_not_at_all() -> None:
    rollouts = made([[4, 9, 1], [7]])
    [row] = pack_rollouts(rollouts, 1000)
    assert row.groups == ((5, (8, 3, 0)), (0, (11,)))
    assert row.shares
    assert len(row.token_ids) == 5 + 3 + 8 + 0 + 5 + 6
    [plain] = pack_rollouts(rollouts, 1000, share=False)
    assert not plain.shares
    assert sorted(plain.lengths) == [5, 8, 11, 13]


def test_a_group_that_does_not_fit_is_split_with_the_prompt_in_front() -> None:
    rollouts = made([[5] * 8], prompt=20)
    rows = pack_rollouts(rollouts, 30)
    assert [row.groups for row in rows] == [((20, (4, 4)),)] * 4
    assert sorted(place for row in rows for place in row.rollouts) == list(range(8))


def test_only_sampled_tokens_are_targets_and_what_follows_the_last_is_not_read() -> None:
    sampled = (False, True, False, True, False, False)
    rollout = Rollout("a", 0, (7, 8), (1, 2, 3, 4, 5, 6), sampled, (0.0,) * 6)
    nothing = Rollout("b", 0, (7, 8), (1, 2), (False, False), (0.0, 0.0))
    [row] = pack_rollouts([nothing, rollout, rollout], 100)
    assert row.rollouts == (1, 2)
    assert row.token_ids.tolist() == [7, 8, 1, 2, 3, 1, 2, 3]
    assert row.targets.tolist() == [2, 4, 2, 4]
    assert row.sources.tolist() == [2, 4, 5, 7]
    assert pack_rollouts([nothing], 100) == ()


def test_the_same_prompt_in_two_groups_and_two_prompts_in_one_are_kept_apart() -> None:
    one, other = made([[3], [3]])
    rows = pack_rollouts([one, Rollout("c", 9, one.prompt_ids, (1, 2), (True, True), (0.0, 0.0))], 100)
    assert [row.shares for row in rows] == [False]
    again = Rollout("d", 0, other.prompt_ids, (1, 2), (True, True), (0.0, 0.0))
    assert [row.shares for row in pack_rollouts([one, again], 100)] == [False]
