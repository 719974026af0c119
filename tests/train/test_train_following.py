"""Early stopping on how well instructions are followed instead of on the loss (items 228, 230)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pydantic
import pytest

from rung.base.events import Events
from rung.models.load import load
from rung.pipeline.stages.sft import Sft
from rung.records.chat.frame import Frame
from rung.records.packing import Example
from rung.train.adapters import prepare
from rung.train.loop import TrainResult, train
from rung.train.pretrain_settings import PretrainSettings
from rung.train.settings import AdapterSettings, PreferenceSettings, RewardSettings, SftSettings


def go(
    folder: Path, monkeypatch: pytest.MonkeyPatch, losses: list[float], rates: list[float], decides: str
) -> TrainResult:
    """A run whose held-out loss and following are scripted, evaluation by evaluation."""
    loaded = load("tiny:llama", precision="float32", clean=False, strict=False)
    prepare(loaded.network, AdapterSettings(kind="none"), 0)
    examples = [Example(str(n), Frame.render(loaded.tokenizer, f"Say {n}.", f"It is {n}.")) for n in range(32)]
    settings = SftSettings.model_validate(
        {
            "epochs": 4,
            "sequences_per_step": 8,
            "eval_fraction": 0.1,
            "eval_interval": 2,
            "patience": 2,
            "decides": decides,
        }
    )
    told: Iterator[float] = iter(losses)
    monkeypatch.setattr("rung.train.loop.evaluate", lambda *arguments: next(told))
    followed = iter(rates)
    return train(
        loaded.network, loaded.tokenizer, examples, settings, events=Events(), scratch=folder,
        on_step=lambda num_tokens: None, also=lambda: {"following": next(followed)},
    )  # fmt: skip


RISING, FALLING = [1.0 + 0.1 * n for n in range(12)], [0.6 - 0.05 * n for n in range(12)]


def test_a_rising_loss_does_not_stop_what_follows_better_and_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = go(tmp_path / "a", monkeypatch, RISING, [0.05 * n for n in range(12)], "following")
    assert not result.stopped_early
    assert result.final_step == result.num_steps == 16
    assert go(tmp_path / "b", monkeypatch, RISING, [0.05 * n for n in range(12)], "loss").stopped_early


def test_a_falling_share_stops_it_at_its_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = go(tmp_path, monkeypatch, FALLING, [0.1, 0.4, 0.5, 0.3, 0.2, 0.1], "following")
    assert result.stopped_early
    assert (result.final_step, result.num_steps) == (4, 8)


def test_what_decides_must_be_measured() -> None:
    following = {"decides": "following", "patience": 2}
    with pytest.raises(pydantic.ValidationError, match="say which instructions"):
        Sft.Settings(data="data", training=following)
    with pytest.raises(pydantic.ValidationError, match="there is no evaluation"):
        Sft.Settings(data="data", follow={}, training={"eval_fraction": 0})
    with pytest.raises(pydantic.ValidationError, match="none of them can answer"):
        Sft.Settings(data="data", follow={}, training={**following, "devices": {"data": 2}})


@pytest.mark.parametrize("kind", [PretrainSettings, PreferenceSettings, RewardSettings])
def test_where_nobody_answers_it_decides_nothing(kind: type[SftSettings]) -> None:
    with pytest.raises(pydantic.ValidationError, match="decides: following is for sft"):
        kind.model_validate({"decides": "following", "patience": 2})


def test_without_patience_nothing_goes_by_it() -> None:
    with pytest.raises(pydantic.ValidationError, match="patience is above 0"):
        SftSettings.model_validate({"decides": "following"})
