"""A mixture of experts on two ranks (gloo) is the one on one: copied and split weights, rows cut over a ring; the load,
the bias that no gradient moves, and the auxiliary loss too; and a stop that resumes on another number of ranks."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_train_ranks import gap, ranks
from training_ranks import FEW_TOKENS, Heard, figures, gradient, network, rows, run, settings

from rung.base.errors import SettingsError
from rung.models.parallel.layout import Layout

SHORT = {"epochs": 2}
BOTH = {"balance_weight": 0.3, "bias_rate": 0.01, "z_weight": 0.01}
TIGHT = {**BOTH, "capacity_factor": 1.0}
SCENARIOS: dict[str, dict[str, Any]] = {
    "data": {"devices": {"data": 2}},
    "shard": {"devices": {"shard": 2}},
    "shard, again": {"devices": {"shard": 2}, "settings": {**SHORT, "recompute": True}},
    "ring": {"devices": {"context": 2}},
    "ring, striped": {"devices": {"context": 2, "order": "striped"}},
    "adapter": {"devices": {"shard": 2}, "kind": "lora"},
    "tight, data": {"devices": {"data": 2}, "choices": TIGHT},
    "tight, shard": {"devices": {"shard": 2}, "choices": TIGHT},
    "tight, ring": {"devices": {"context": 2}, "choices": TIGHT},
    "gradient, data": {"devices": {"data": 2}, "gradient": True},
    "gradient, shard": {"devices": {"shard": 2}, "gradient": True},
    "gradient, ring": {"devices": {"context": 2}, "gradient": True},
    "stopped": {"devices": {"shard": 2}, "stop_after": 7},
    "on copies": {"devices": {"data": 2}, "like": "stopped"},
    "on a ring": {"devices": {"context": 2}, "like": "stopped"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("experts")


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, dict[str, Any]]:
    scenarios = [
        {"name": name, "family": "coder", "choices": BOTH, "settings": SHORT, **what}
        for name, what in SCENARIOS.items()
    ]
    answer, codes = ranks(2, folder, scenarios)
    assert codes == [0, 0]
    return answer


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A scenario on one device."""

    @functools.cache
    def train(kind: str = "none", tight: bool = False) -> dict[str, Any]:
        heard, made = Heard(), network("coder", kind, **(TIGHT if tight else BOTH))
        result = run(made, settings({}, **SHORT), tmp_path_factory.mktemp("alone"), heard=heard)
        return {**figures(made, result), "curves": heard.curves}

    return train


def furthest(first: dict[str, list[float]], second: dict[str, list[float]]) -> float:
    assert first.keys() == second.keys()
    return max(gap({"x": first[name]}, {"x": second[name]}, "x") for name in first)


@pytest.mark.parametrize(("name", "least"), [
    ("data", 1e-5), ("shard", 1e-5), ("shard, again", 1e-5), ("adapter", 1e-5), ("tight, data", 1e-5),
    ("tight, shard", 1e-5), ("ring", 1e-3), ("ring, striped", 1e-3),
])  # fmt: skip
def test_two_ranks_train_experts_as_one_does(found: Any, alone: Any, name: str, least: float) -> None:
    what = SCENARIOS[name]
    one, two = alone(what.get("kind", "none"), "tight" in name), found[name]
    for key in ("losses", "validation", "weights"):
        assert gap(two, one, key) < least
    assert two["balance"] == one["balance"], "load and bias, counted over both ranks"
    assert furthest(two["curves"], one["curves"]) < least
    assert (max(two["curves"]["dropped"]) > 0) == ("tight" in name)
    assert two["plain"]


def test_load_and_bias_move_and_the_auxiliary_loss_acts(alone: Any, tmp_path: Path) -> None:
    """What is compared above is something."""
    one = alone()
    assert any(any(bias) for name, bias in one["balance"].items() if "bias" in name)
    assert len({tuple(row) for row in one["balance"]["balance.load"]}) == 2
    free = network("coder", balance_weight=0.0, bias_rate=0.0)
    assert gap(figures(free, run(free, settings({}, **SHORT), tmp_path)), one, "weights") > 1e-2


@pytest.mark.parametrize("way", ["data", "shard", "ring"])
def test_the_gradient_of_two_ranks_is_that_of_one_row(found: Any, way: str) -> None:
    assert len(rows(4096)) == 1
    assert len(rows(FEW_TOKENS)) >= 4
    one = gradient(network("coder", **BOTH), rows(4096), Layout())
    assert any(any(grads) for name, grads in one["weights"].items() if ".gate." in name)
    assert gap(found[f"gradient, {way}"], one, "weights") < 1e-6
    assert gap(found[f"gradient, {way}"], one, "losses") < 1e-6


@pytest.mark.parametrize("name", ["on copies", "on a ring"])
def test_a_stopped_run_goes_on_on_other_ranks(found: Any, alone: Any, name: str) -> None:
    assert found["stopped"] == {"ended": "budget"}
    one = alone()
    assert found[name]["resumed_from"] == 7
    for key in ("losses", "validation", "weights"):
        assert gap(found[name], one, key) < (1e-3 if "ring" in name else 1e-5)
    assert found[name]["balance"] == one["balance"]


def test_a_stopped_run_goes_on_on_one(found: Any, alone: Any, folder: Path, tmp_path: Path) -> None:
    assert found["stopped"] == {"ended": "budget"}
    made = network("coder", **BOTH)
    shutil.copytree(folder / "stopped", tmp_path / "again")
    result = run(made, settings({}, **SHORT), tmp_path / "again")
    assert result.resumed_from == 7
    one, again = alone(), figures(made, result)
    assert gap(again, one, "weights") < 1e-5
    assert again["balance"] == one["balance"]


def test_a_limited_capacity_is_refused_where_no_rank_has_whole_rows(found: Any) -> None:
    assert found["tight, ring"] == {"ended": SettingsError.code}
