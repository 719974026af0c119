"""Packing and data order: nothing lost, nothing leaked, nothing trained by accident."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.base.errors import DataError
from rung.records.chat.frame import Rendered
from rung.records.packing import (
    Example,
    best_fit,
    check_examples,
    hold_out,
    num_steps_per_epoch,
    pack,
    step_indices,
)

END = 2


def example(name: str, num_prompt: int, num_target: int, first: int = 10) -> Example:
    ids = (*range(first, first + num_prompt + num_target - 1), END)
    return Example(name, Rendered(ids, (False,) * num_prompt + (True,) * num_target, num_prompt))


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(40, 100))
def test_every_length_lands_in_one_row_that_holds_it(lengths: list[int], limit: int) -> None:
    rows = best_fit(lengths, limit)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= limit for row in rows)
    assert len(rows) <= -(-sum(lengths) * 2 // limit) + 1  # best fit leaves no two rows half empty
    assert rows == best_fit(lengths, limit)


def test_best_fit_takes_the_fullest_row_that_fits() -> None:
    assert best_fit([6, 5, 4, 5], 10) == ((0, 2), (1, 3))
    assert best_fit([70], 10) == ((0,),)


def test_a_row_keeps_documents_apart() -> None:
    (row,) = pack([example("a", 3, 2), example("b", 1, 4, first=50)], 20)
    assert row.ids == ("a", "b")
    assert row.lengths == (5, 5)
    assert row.positions.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]
    assert row.targets.tolist() == [13, END, 51, 52, 53, END]
    assert row.sources.tolist() == [2, 3, 5, 6, 7, 8]
    assert row.target_counts.tolist() == [2, 2, 4, 4, 4, 4]
    assert not row.loss_mask[5], "the first token of a document has nothing before it"


def test_a_first_token_marked_as_target_is_never_predicted_from_the_neighbour() -> None:
    bare = Example("bare", Rendered((7, 8, END), (True, True, True), 0))
    (row,) = pack([example("a", 2, 2), bare], 20)
    starts = np.cumsum([0, *row.lengths[:-1]])
    assert not set(row.sources + 1) & set(starts)
    assert row.targets.tolist().count(7) == 0


def test_rows_come_longest_first() -> None:
    rows = pack([example(str(n), 2, n) for n in (3, 9, 1, 6)], 12)
    sizes = [len(row.token_ids) for row in rows]
    assert sizes == sorted(sizes, reverse=True)


def test_an_epoch_shows_every_example_once_and_epochs_differ() -> None:
    num_steps = num_steps_per_epoch(23, 5)
    assert num_steps == 5
    epochs = [[i for s in range(num_steps) for i in step_indices(23, 5, 4, e * num_steps + s)] for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(23))
    assert epochs[0] != epochs[1]
    assert step_indices(23, 5, 4, 7) == step_indices(23, 5, 4, 7) != step_indices(23, 5, 5, 7)


def test_held_out_examples_do_not_depend_on_order_and_are_never_trained() -> None:
    examples = [example(f"r{i}", 2, 3, first=10 * i + 10) for i in range(40)]
    train, held = hold_out(examples, 0.1, 3)
    assert len(held) == 4
    assert {e.id for e in train}.isdisjoint(e.id for e in held)
    assert {e.id for e in hold_out(examples[::-1], 0.1, 3)[1]} == {e.id for e in held}
    assert {e.id for e in hold_out(examples, 0.1, 4)[1]} != {e.id for e in held}
    assert hold_out(examples, 0.0, 3) == (tuple(examples), ())


def test_a_twin_of_a_training_example_is_not_held_out() -> None:
    examples = [example(f"r{i}", 2, 3) for i in range(20)]
    train, held = hold_out(examples, 0.2, 0)
    assert len(train) == 20
    assert held == ()


def test_truncation_is_counted_and_cuts_the_end() -> None:
    checked, report = check_examples([example("long", 3, 9), example("short", 3, 2)], 8, [END])
    assert report.truncated_ids == ("long",)
    assert report.num_truncated == 1
    assert checked[0].rendered.token_ids == example("long", 3, 9).rendered.token_ids[:8]
    assert report.num_targets == 5 + 2
    assert report.num_tokens == 8 + 5
    assert report.num_with_end == 1


@pytest.mark.parametrize(
    ("examples", "words"),
    [
        ([], "nothing to train on"),
        ([example("a", 2, 2), example("a", 2, 2)], "more than once"),
        ([Example("a", Rendered((1, 2), (True,), 0))], "mask entries"),
        ([Example("a", Rendered((1, 2, 3), (False,) * 3, 3))], "its mask is empty"),
        ([Example("a", Rendered((1, 2, 3), (True, False, False), 0))], "no token of the example can be trained"),
        ([example("a", 8, 3)], "cut off at 8 tokens"),
        ([Example("a", Rendered((1, 4, 3), (False, True, True), 1))], "never to stop"),
        ([Example("a", Rendered((1, 4, END), (False, True, False), 1))], "never to stop"),
    ],
)
def test_data_that_cannot_be_trained_is_named(examples: list[Example], words: str) -> None:
    with pytest.raises(DataError, match=words):
        check_examples(examples, 8, [END])


def test_without_declared_end_tokens_none_is_asked_for() -> None:
    _, report = check_examples([Example("a", Rendered((1, 4, 3), (False, True, True), 1))], 8)
    assert report.num_with_end is None
