"""Ring attention over real processes (gloo) equals attention over whole rows; what travels, when, and what is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ring_ranks import CASES, LONG, PACKED, Case, SlowCircle, gap

from rung.base.errors import ModelError, SettingsError
from rung.base.settings import validate
from rung.models.parallel.circle import Circle, Moment, Timeline
from rung.models.parallel.cut import Cut
from rung.models.parallel.layout import Layout
from rung.models.parallel.ring import RingAttend

ROOT = Path(__file__).parents[3]
NUM_RANKS = 4
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict]:
    """Of every rank, what `ring_ranks` found."""
    store = tmp_path_factory.mktemp("ring") / "store"
    script = Path(__file__).with_name("ring_ranks.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(script), str(NUM_RANKS), str(store)]
    done = subprocess.run(command, capture_output=True, env=environment, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    answer: list[dict] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_outputs_and_gradients_equal_full_attention(found, name: str, size: int) -> None:
    gaps = [of_rank[str(size)][name] for of_rank in found[:size]]
    assert max(gaps) < TOLERANCE


def test_a_ring_is_formed_again_after_one_of_another_size(found) -> None:
    assert max(of_rank["again"] for of_rank in found[:2]) < TOLERANCE


@pytest.mark.parametrize("size", [2, 4])
def test_blocks_go_to_the_next_rank_in_one_round_less_than_there_are_ranks(found, size: int) -> None:
    held = [of_rank[f"log {size}"]["held"] for of_rank in found[:size]]
    token = 2 * CASES["grouped"].heads[1] * 8 * 4
    for rank, of_rank in enumerate(found[:size]):
        sends = of_rank[f"log {size}"]["sends"]
        assert all(send[2:4] == [rank, (rank + 1) % size] for send in sends)
        forward = {number: num_bytes for way, number, _, _, num_bytes in sends if way == "forward"}
        assert forward == {n: held[(rank - n) % size] * token for n in range(size - 1)}
        # backward: the same blocks once more, and the gradients of the others' blocks
        backward = sum(num_bytes for way, _, _, _, num_bytes in sends if way == "backward")
        assert backward == sum(forward.values()) + (sum(held) - held[rank]) * token


@pytest.mark.parametrize("size", [2, 4])
def test_no_more_bytes_than_two_all_gathers_and_a_reduce_scatter(found, size: int) -> None:
    """Those too send every block to all other ranks, twice, and every share in a gradient once."""
    held = [of_rank[f"log {size}"]["held"] for of_rank in found[:size]]
    token = 2 * CASES["grouped"].heads[1] * 8 * 4
    sent = sum(send[4] for of_rank in found[:size] for send in of_rank[f"log {size}"]["sends"])
    assert sent <= 3 * (size - 1) * sum(held) * token


@pytest.mark.parametrize("size", [2, 4])
def test_every_send_is_posted_before_the_computation_of_its_round(found, size: int) -> None:
    for of_rank in found[:size]:
        order = [tuple(step) for step in of_rank[f"log {size}"]["order"]]
        for way in ("forward", "backward"):
            for number in range(size - 1):
                post, compute, wait = (order.index((way, number, what)) for what in ("post", "compute", "wait"))
                assert post < compute < wait


def test_travel_hides_behind_computing(found) -> None:
    """Four computations and three transfers of 0.4 s each: 1.6 s when they overlap, 2.8 s one after another."""
    most, delay = max(of_rank["delayed"] for of_rank in found), SlowCircle.delay
    hidden, one_by_one = NUM_RANKS * delay, (2 * NUM_RANKS - 1) * delay
    assert most - hidden < one_by_one - most


def test_a_rank_keeps_its_share_of_keys_and_values_and_of_everything_else(found) -> None:
    alone = sum(found[0]["kept 1"])
    for size in (2, 4):
        for of_rank in found[:size]:
            assert sum(of_rank[f"kept {size}"]) == pytest.approx(alone / size, rel=0.02)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("contiguous", [528, 1552, 2576, 3600]),
        ("zigzag", [2064, 2064, 2064, 2064]),
        ("striped", [2016, 2048, 2080, 2112]),
    ],
)
def test_work_of_each_rank(order: str, expected: list[int]) -> None:
    cut = Cut([128], 4, order)
    assert [cut.work(rank) for rank in range(4)] == expected


@pytest.mark.parametrize("order", ["zigzag", "striped"])
def test_balanced_orders_differ_by_under_a_tenth(order: str) -> None:
    work = [Cut([4001], 8, order).work(rank) for rank in range(8)]
    assert max(work) < 1.1 * min(work)


@pytest.mark.parametrize("order", ["zigzag", "striped", "contiguous"])
@pytest.mark.parametrize("window", [0, 50])
def test_every_token_is_held_once_and_every_pair_is_computed_once(order: str, window: int) -> None:
    cut = Cut(PACKED, 4, order)
    assert sorted(place for rank in range(4) for place in cut.indices(rank)) == list(range(sum(PACKED)))
    assert [len(cut.indices(rank)) for rank in range(4)] == [cut.num_held(rank) for rank in range(4)]
    seen = sum(min(i + 1, window or i + 1) for length in PACKED for i in range(length))
    assert sum(cut.work(rank, window) for rank in range(4)) == seen


def test_layers_and_families_do_not_know_of_it() -> None:
    folder = ROOT / "src" / "rung" / "models"
    files = [path for path in folder.rglob("*.py") if path.parent != folder / "parallel"]
    assert len(files) > 20
    assert [path.name for path in files if "rung.models.parallel" in path.read_text()] == []


def test_a_window_leaves_out_the_work_behind_it() -> None:
    assert Cut([4096], 4).work(0, 64) < 0.1 * Cut([4096], 4).work(0)


def test_one_process_is_a_ring_of_one() -> None:
    assert gap(Case(LONG), Circle(None)) < TOLERANCE


def test_a_row_cut_for_another_ring_is_refused() -> None:
    with pytest.raises(ModelError, match="cut for 2 ranks, the ring has 1"):
        RingAttend(Cut([8], 2), Circle(None))


def test_tokens_that_the_rank_does_not_hold_are_refused() -> None:
    parts = [torch.zeros(1, 7, 2, 8)] * 3
    with pytest.raises(ModelError, match="holds 8 tokens, the batch has 7"):
        RingAttend(Cut([8], 1), Circle(None))(0, *parts, scale=1.0, window=0)


def test_an_empty_document_is_refused() -> None:
    with pytest.raises(ModelError, match="at least one token"):
        Cut([3, 0], 2)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"context": 0}, "greater than or equal"),
        ({"order": "spiral", "context": 2}, "zigzag"),
        ({"context": 2, "query_block": 4}, "at least 16"),
        ({"order": "striped"}, "context above 1"),
    ],
)
def test_wrong_layouts_are_refused(wrong: dict, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        validate(Layout, wrong, "devices")


def test_the_profile_sums_the_rounds() -> None:
    timeline = Timeline(
        [
            Moment(0, "forward", 0, "post", 0.0, 0.5, 100, 0, 1),
            Moment(1, "forward", 0, "post", 2.0, 2.5, 100, 0, 1),
            Moment(0, "forward", 0, "compute", 0.5, 1.5),
            Moment(0, "backward", 0, "wait", 3.0, 3.25),
        ]
    )
    first, second = timeline.rounds()
    assert (first.way, first.num_bytes, first.posting, first.computing) == ("forward", 200, 1.0, 1.0)
    assert (second.way, second.waiting) == ("backward", 0.25)
    assert timeline.table().splitlines()[1].split() == ["forward", "0", "200", "1.0000", "1.0000", "0.0000"]
