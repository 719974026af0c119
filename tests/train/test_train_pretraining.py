"""Windows of a token corpus through the one loop: order, spread, what is measured, and the schedule made for it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rung.base.errors import DataError
from rung.base.events import Events
from rung.models.families.llama import Llama
from rung.records.packing import step_indices
from rung.records.token_shards import TokenShard, TokenWriter
from rung.records.windows import Windows
from rung.train.objectives.cross_entropy import CrossEntropy
from rung.train.pretrain_settings import PretrainSettings
from rung.train.pretraining import WindowMaterial, bits_per_byte, pretrain
from rung.train.schedules import learning_rate_factor
from rung.train.shares import own_rows
from rung.train.step import evaluate

VOCABULARY = 300


def shard(folder: Path, name: str, count: int, seed: int = 0) -> TokenShard:
    """Documents in which each token follows from the one before it."""
    draw = np.random.default_rng(seed)
    with TokenWriter(folder, name, VOCABULARY) as writer:
        for key in range(count):
            ids = (draw.integers(0, 50) + 7 * np.arange(draw.integers(5, 40))) % 50
            writer.add(key, [1, *(ids + 10), 2], 3 * len(ids))
    return TokenShard(folder, name, VOCABULARY)


def material(folder: Path, **settings: Any) -> WindowMaterial:
    chosen = PretrainSettings(
        **{"max_tokens": 32, "sequences_per_step": 4, "tokens_per_micro_batch": 70, "learning_rate": 1e-2, **settings}
    )
    train, held_out = (Windows(shard(folder, name, n, n), 32) for name, n in (("train", 60), ("held", 9)))
    return WindowMaterial(Llama.build(Llama.SIZES["tiny"], seed=0), train, held_out, chosen, "here")


def test_every_window_is_shown_once_an_epoch_in_an_order_of_seed_and_step(tmp_path: Path) -> None:
    made = material(tmp_path)
    steps = -(-made.num_examples // 4)
    orders = {seed: [step_indices(made.num_examples, 4, seed, step) for step in range(2 * steps)] for seed in (0, 1)}
    for order in orders.values():
        for epoch in (order[:steps], order[steps:]):
            assert sorted(i for step in epoch for i in step) == list(range(made.num_examples))
        assert order[:steps] != order[steps:]
    assert orders[0] != orders[1]
    targets = [len(row.targets) for step in orders[0][:steps] for row in made.rows(step)]
    assert sum(targets) == made.report.num_targets


def test_ranks_share_the_windows_of_a_step_and_lose_none(tmp_path: Path) -> None:
    """What a step reads does not depend on how many read it: each rank's rows are a part of the same ones."""
    rows = material(tmp_path).rows(step_indices(40, 12, 0, 5))
    assert len(rows) > 3
    assert [row.ids for row, _ in own_rows(rows, None)] == [row.ids for row in rows]


def test_fewer_windows_are_spread_over_the_whole_corpus(tmp_path: Path) -> None:
    made, whole = material(tmp_path, max_windows=5), material(tmp_path)
    assert (made.num_examples, whole.num_examples > 30) == (5, True)
    shown = [int(row.ids[0].partition(":")[2]) for i in range(5) for row in made.rows([i])]
    assert shown == [i * whole.num_examples // 5 for i in range(5)]


def test_it_learns_and_what_is_held_out_is_measured_in_bits_per_byte(tmp_path: Path) -> None:
    made = material(tmp_path, epochs=6, eval_interval=10)
    before = made.measure()
    result = pretrain(made, events=Events(), scratch=tmp_path / "scratch", on_step=lambda num_tokens: None)
    after = made.measure()
    assert result.validation[0] == (0, before["loss"])
    assert after["loss"] < before["loss"] / 2
    held_out = Windows(TokenShard(tmp_path, "held", VOCABULARY), 32)
    nats = sum(
        evaluate(made.network, [row], CrossEntropy(CrossEntropy.Settings())) * len(row.targets)
        for row in held_out.rows(range(len(held_out)), 1)
    )
    assert after["bits_per_byte"] == pytest.approx(nats / math.log(2) / held_out.num_bytes, rel=1e-5)
    assert bits_per_byte(math.log(2), held_out) == pytest.approx(held_out.num_targets / held_out.num_bytes)


def test_nothing_to_train_or_to_measure_on_is_refused(tmp_path: Path) -> None:
    one, none = (Windows(shard(tmp_path, name, n), 8) for name, n in (("a", 3), ("b", 0)))
    for train, held_out in ((none, one), (one, none)):
        with pytest.raises(DataError, match="windows to train on"):
            WindowMaterial(Llama.build(Llama.SIZES["tiny"]), train, held_out, PretrainSettings(), "")


def test_stable_decay_rises_stays_and_falls_as_its_formula_says() -> None:
    factors = [learning_rate_factor("stable_decay", step, 110, 10) for step in range(111)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10:91] == [1.0] * 81
    assert factors[90:] == pytest.approx([1 - math.sqrt(q / 20) for q in range(21)], abs=1e-6)
    assert learning_rate_factor("cosine", 60, 110, 10) == pytest.approx(0.5)
