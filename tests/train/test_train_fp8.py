"""Training with products in FP8: what bfloat16 learns, by other bits, and nothing is left behind (item 285)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import test_train_preferences as preferences
import test_train_rewards as rewards
import torch
from training_ranks import TOKENIZER, examples, network, settings

from rung.base.errors import BudgetSpent, Drift, SettingsError
from rung.base.events import Events
from rung.base.settings import validate
from rung.models import fp8
from rung.models.families.llama import Llama
from rung.models.layers.attend import CausalAttend
from rung.models.load import replace_weights
from rung.models.network import Network
from rung.train.adapters import base_hash, save_weights, trainable
from rung.train.loop import TrainResult, train
from rung.train.pretrain_settings import PretrainSettings
from rung.train.settings import PreferenceSettings, RewardSettings, SftSettings

NARROW = {"precision": "bfloat16", "fp8": "simulated"}


class Heard:
    """A sink that keeps what is degraded."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def handle(self, event: dict[str, Any]) -> None:
        """Keep it."""
        if event["kind"] == "degraded":
            self.said.append(event["message"])

    def close(self) -> None:
        """Nothing is held."""


def go(scratch: Path, on_step: Any = lambda tokens: None, **own: Any) -> tuple[Any, TrainResult, list[str]]:
    made, heard = network(own.pop("family", "llama"), own.pop("kind", "none")), Heard()
    chosen = settings({}, **{"epochs": 2, **NARROW, **own})
    events = Events([heard])
    result = train(made, TOKENIZER, examples(), chosen, events=events, scratch=scratch, on_step=on_step)
    return made, result, heard.said


def curve(result: TrainResult) -> list[float]:
    return [loss for _, loss in (*result.losses, *result.validation)]


def same(first: Network, second: Network) -> bool:
    pairs = zip(trainable(first).values(), trainable(second).values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def hidden(made: Network) -> torch.Tensor:
    ids = torch.arange(12)[None] + 20
    return made.hidden(ids, torch.arange(12)[None], CausalAttend())


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_it_learns_what_bfloat16_learns_by_other_bits(tmp_path, family: str) -> None:
    _, exact, _ = go(tmp_path / "a", fp8="no", epochs=4, family=family, learning_rate=3e-3)
    made, narrow, said = go(tmp_path / "b", epochs=4, family=family, learning_rate=3e-3)
    assert said == []
    assert exact.fp8 is None
    assert narrow.fp8 is not None
    assert (narrow.fp8.path, narrow.fp8.recipe, narrow.fp8.share) == ("simulated", "tensorwise", 1.0)
    assert narrow.final_loss < 0.95 * narrow.first_loss
    assert all(a != b for a, b in zip(curve(narrow), curve(exact), strict=True)), "it was off"
    assert max(abs(a - b) / b for a, b in zip(curve(narrow), curve(exact), strict=True)) < 0.015
    assert not any("Float8" in type(module).__name__ for module in made.modules())


def test_the_parameters_stay_the_same_objects_and_what_is_published_loads(tmp_path) -> None:
    made, seen = network(), []
    before = {name: id(p) for name, p in made.named_parameters()}
    modules = dict(made.named_modules())

    def look(num_tokens: int) -> None:
        seen.append({name: id(p) for name, p in made.named_parameters()})
        assert sum(type(m).__name__ == "Float8Linear" for m in made.modules()) == 14

    chosen = settings({}, epochs=1, **NARROW)
    train(made, TOKENIZER, examples(), chosen, events=Events(), scratch=tmp_path / "s", on_step=look)
    assert all(ids == before for ids in seen)
    assert dict(made.named_modules()) == modules
    assert {p.dtype for p in made.parameters()} == {torch.float32}
    save_weights(made, tmp_path / "weights.safetensors")
    again = Llama.build(Llama.SIZES["tiny"], 5)
    replace_weights(again, tmp_path / "weights.safetensors")
    assert torch.equal(hidden(again.eval()), hidden(made.eval()))


def test_stopped_and_resumed_or_computed_again_the_bits_are_the_same(tmp_path) -> None:
    straight, whole, _ = go(tmp_path / "a")
    again, result, _ = go(tmp_path / "c", recompute=True)
    assert curve(result) == curve(whole)
    assert same(again, straight)
    seen: list[int] = []

    def stop(num_tokens: int) -> None:
        seen.append(num_tokens)
        if len(seen) == 3:
            raise BudgetSpent("enough")

    with pytest.raises(BudgetSpent):
        go(tmp_path / "b", on_step=stop)
    resumed, rest, _ = go(tmp_path / "b")
    assert rest.resumed_from == 3
    assert curve(rest) == curve(whole)
    assert same(resumed, straight)


def test_if_usable_falls_back_to_the_bits_of_bfloat16_and_says_so(tmp_path) -> None:
    exact, plain, _ = go(tmp_path / "a", fp8="no")
    made, result, said = go(tmp_path / "b", fp8="if_usable")
    assert result.fp8 is not None
    assert (result.fp8.path, result.fp8.num_layers, result.fp8.share) == ("bfloat16", 0, 0.0)
    assert len(said) == 1
    assert said[0].startswith("degraded: FP8: products are in bfloat16: ")
    assert curve(result) == curve(plain)
    assert same(made, exact)


def test_required_refuses_before_any_step(tmp_path) -> None:
    made = network()
    before = base_hash(made)
    chosen = settings({}, precision="bfloat16", fp8="required")
    with pytest.raises(SettingsError, match="no products in FP8 here"):
        train(made, TOKENIZER, examples(), chosen, events=Events(), scratch=tmp_path, on_step=lambda n: None)
    assert base_hash(made) == before
    assert not list(tmp_path.iterdir())


def test_a_run_does_not_go_on_by_other_products(tmp_path, monkeypatch) -> None:
    """Begun where FP8 is there, gone on with where it is not."""
    with monkeypatch.context() as there:
        there.setattr(fp8, "_lacking", lambda device: "")
        _, result, said = go(tmp_path, fp8="if_usable")
    assert result.fp8 is not None
    assert result.fp8.path == "fp8"
    assert said == []
    with pytest.raises(Drift):
        go(tmp_path, fp8="if_usable")


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_an_adapter_is_trained_over_a_base_in_fp8(tmp_path, kind: str) -> None:
    made, narrow, _ = go(tmp_path / "b", kind=kind, learning_rate=2e-3, epochs=4)
    _, exact, _ = go(tmp_path / "a", kind=kind, learning_rate=2e-3, epochs=4, fp8="no")
    assert narrow.fp8 is not None
    assert narrow.fp8.num_layers == 14
    assert 0.5 < narrow.fp8.share < 0.9, "the adapter's own products are not in FP8"
    assert curve(narrow) != curve(exact)
    assert max(abs(a - b) / b for a, b in zip(curve(narrow), curve(exact), strict=True)) < 0.01
    assert narrow.final_loss < narrow.first_loss
    assert base_hash(made) == base_hash(network(kind=kind))


def test_preferences_have_reference_and_policy_from_the_same_products(tmp_path) -> None:
    """Else the first margins would be differences of roundings."""
    made = preferences.stacked(tmp_path)
    pairs = preferences.pairs_of(24)
    result = preferences.go(made, pairs, tmp_path / "r", epochs=1, learning_rate=1e-3, **NARROW)
    assert result.training.fp8 is not None
    assert result.training.fp8.num_layers == 14
    assert result.training.first_loss == pytest.approx(math.log(2), abs=5e-4), (
        "a forward with a gradient is of other bits"
    )
    assert result.training.validation[0] == (0, pytest.approx(math.log(2), abs=1e-7))
    gap = [one.chosen - one.rejected for one in result.rewards]
    loss = sum(math.log1p(math.exp(-margin)) for margin in gap) / len(gap)
    assert result.training.validation[-1][1] == pytest.approx(loss, abs=1e-6), "rewards are of the same products too"


def test_a_reward_model_with_an_adapter_is_trained_in_fp8_and_a_lone_head_is_not(tmp_path) -> None:
    result = rewards.go(rewards.tiny(1, "lora"), rewards.planted_pairs(16), tmp_path / "a", epochs=2, **NARROW)
    assert result.fp8.num_layers == 14
    with pytest.raises(SettingsError, match="only the head is trained"):
        rewards.go(rewards.tiny(1, frozen=True), rewards.planted_pairs(8), tmp_path / "b", **NARROW)


@pytest.mark.parametrize("kind", [SftSettings, PretrainSettings, PreferenceSettings, RewardSettings])
def test_a_recipe_that_does_not_speak_of_it_is_what_it_was(kind: type[SftSettings]) -> None:
    assert "fp8" not in kind().model_dump()
    assert kind(precision="bfloat16", fp8="required").model_dump()["fp8"] == "required"
    for precision in ("float32", "float16"):
        with pytest.raises(SettingsError, match="set precision: bfloat16"):
            validate(kind, {"fp8": "if_usable", "precision": precision}, "sft.training")
