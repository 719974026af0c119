"""Training on several ranks (gloo) is training on one: split or copied weights, rows cut over a ring, uneven rows, a
stop and a kill that resume on another number of ranks."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from training_ranks import FEW_TOKENS, figures, gradient, network, rows, run, settings

from rung.base.errors import DataError, SettingsError
from rung.models.parallel.layout import Layout
from rung.records.packing import PackedRow
from rung.train.shares import RingRow, _dealt, own_rows

ROOT = Path(__file__).parents[2]
SHORT = {"epochs": 2}
FP8 = {**SHORT, "learning_rate": 3e-3, "precision": "bfloat16", "fp8": "simulated"}
SCENARIOS = {
    "shard": {"devices": {"shard": 2}, "settings": SHORT},
    "data": {"devices": {"data": 2}, "settings": SHORT},
    "ring": {"devices": {"context": 2, "profile": True}},
    "ring, striped": {"devices": {"context": 2, "order": "striped"}, "settings": SHORT},
    "shard and ring": {"devices": {"shard": 2, "context": 2}},
    "data and shard": {"devices": {"data": 2, "shard": 2}, "settings": SHORT},
    "windows": {"devices": {"context": 2}, "family": "gemma3", "settings": {"learning_rate": 3e-3}},
    "windows, gradient": {"devices": {"context": 2}, "family": "gemma3", "gradient": True},
    "adapter": {"devices": {"shard": 2}, "kind": "lora", "settings": SHORT},
    "curriculum": {"devices": {"data": 2}, "settings": {**SHORT, "curriculum": "loss"}},
    "spoilt": {"devices": {"shard": 2}, "settings": {**SHORT, "precision": "float16"}, "spoilt": 3},
    "scaled copies": {"devices": {"data": 2}, "settings": {**SHORT, "precision": "float16"}, "scale": 2.0**24},
    "four of eight, split": {"devices": {"shard": 4}, "gradient": True},
    "four of eight, copied": {"devices": {"data": 2}, "gradient": True},
    "four of eight, ring": {"devices": {"shard": 2, "context": 2}, "gradient": True},
    "fp8": {"devices": {"shard": 2}, "settings": FP8},
    "fp8 copies": {"devices": {"data": 2}, "settings": FP8},
    "fp8 ring": {"devices": {"context": 2}, "settings": FP8},
    "best": {"devices": {"shard": 2}, "settings": {"patience": 1, "eval_interval": 3, "learning_rate": 0.3}},
    "stopped": {"devices": {"shard": 2}, "settings": SHORT, "stop_after": 7},
    "stopped, copies": {"devices": {"data": 2}, "settings": SHORT, "stop_after": 7},
    "on four": {"devices": {"shard": 4}, "settings": SHORT, "like": "stopped"},
    "on copies": {"devices": {"data": 2, "shard": 2}, "settings": SHORT, "like": "stopped"},
    "from copies": {"devices": {"shard": 2}, "settings": SHORT, "like": "stopped, copies"},
}


def ranks(size: int, folder: Path, scenarios: list[dict]) -> tuple[dict[str, dict], list[int]]:
    """Of every scenario its figures, and the exit codes of the ranks."""
    script = Path(__file__).with_name("training_ranks.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(script), str(size), str(folder), json.dumps(scenarios)]
    done = subprocess.run(command, capture_output=True, env=environment, text=True, timeout=240, check=False)
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr[-3000:]
    return json.loads(lines[0]), json.loads(lines[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def found(folder) -> dict[str, dict]:
    """The figures of every scenario."""
    scenarios = [{"name": name, **what} for name, what in SCENARIOS.items()]
    answer, codes = ranks(4, folder, scenarios)
    assert codes == [0] * 4
    return answer


def alone(tmp_path: Path, name: str) -> dict:
    """The same on one device."""
    what = SCENARIOS[name]
    made = network(what.get("family", "llama"), what.get("kind", "none"))
    return figures(made, run(made, settings({}, **what.get("settings", {})), tmp_path))


@pytest.mark.parametrize("name", ["spoilt", "scaled copies"])
def test_ranks_agree_on_the_steps_that_overflow(found, name: str) -> None:
    """A rank whose part of the gradient fits leaves the step out with the others: in "spoilt" only the other's is too
    large."""
    first, second = found[name]["scales"]
    assert first == second
    assert first["num_skipped"] == 1 if name == "spoilt" else first["num_skipped"] >= 1
    assert first["value"] == SCENARIOS[name].get("scale", 2.0**16) / 2 ** first["num_skipped"]
    assert found[name]["losses"][-1] < 0.98 * found[name]["losses"][0]
    assert found[name]["plain"]


@pytest.mark.parametrize("name", ["fp8", "fp8 copies", "fp8 ring"])
def test_fp8_goes_over_ranks(found, tmp_path, name: str) -> None:
    """On a ring a scale is of the part that a rank reads, so it is the losses that are near and not the bits."""
    one = alone(tmp_path / "on", name)
    off = run(network(), settings({}, **{**FP8, "fp8": "no"}), tmp_path / "off")
    assert gap(found[name], one, "losses") < (5e-3 if name == "fp8 ring" else 1e-5)
    assert abs(found[name]["losses"][0] - off.losses[0][1]) > 1e-5, "it was off"
    assert any("in FP8" in said for said in found[name]["said"])
    assert found[name]["plain"]


def gap(first: dict, second: dict, key: str) -> float:
    a, b = first[key], second[key]
    if key == "weights":
        assert a.keys() == b.keys()
        a, b = ([x for values in found.values() for x in values] for found in (a, b))
    assert len(a) == len(b)
    return float((torch.tensor(a, dtype=torch.float64) - torch.tensor(b, dtype=torch.float64)).abs().max())


@pytest.mark.parametrize("name", ["shard", "data", "data and shard", "adapter", "curriculum"])
def test_split_and_copied_weights_train_as_on_one_device(found, tmp_path, name: str) -> None:
    one = alone(tmp_path, name)
    for key in ("losses", "validation", "weights"):
        assert gap(found[name], one, key) < 1e-5
    assert found[name]["targets"] == one["targets"]


@pytest.mark.parametrize("name", ["ring", "ring, striped", "shard and ring", "windows"])
def test_twenty_steps_on_a_ring_are_twenty_plain_steps(found, tmp_path, name: str) -> None:
    one = alone(tmp_path, name)
    assert one["losses"][-1] < 0.95 * one["losses"][0]
    for key in ("losses", "validation", "weights"):
        assert gap(found[name], one, key) < 1e-3


@pytest.mark.parametrize("name", [name for name, what in SCENARIOS.items() if "gradient" in what])
def test_the_gradient_of_four_rows_of_eight_is_that_of_one_row_of_32(found, name: str) -> None:
    assert len(rows(4096)) == 1
    assert len(rows(FEW_TOKENS)) >= 4
    one = gradient(network(SCENARIOS[name].get("family", "llama")), rows(4096), Layout())
    assert gap(found[name], one, "weights") < 1e-6
    assert gap(found[name], one, "losses") < 1e-6


def test_a_rank_holds_its_share_of_split_weights_and_all_of_copied_ones(found) -> None:
    total = sum(p.numel() for p in network().parameters())
    assert found["four of eight, split"]["held"] == pytest.approx(total / 4, rel=0.02)
    assert found["four of eight, ring"]["held"] == pytest.approx(total / 4, rel=0.02)
    assert found["four of eight, copied"]["held"] == total


def test_the_profile_of_the_ring_is_logged(found) -> None:
    (table,) = (said for said in found["ring"]["said"] if said.startswith("the ring since the last step began"))
    lines = [line.split() for line in table.splitlines()[2:]]
    assert [line[:2] for line in lines] == [
        ["forward", "0"], ["forward", "1"], ["backward", "0"], ["backward", "1"], ["backward", "2"],
    ]  # fmt: skip
    assert all(int(line[2]) > 0 for line in lines if line[1] != "1")


def test_pairs_and_labelled_answers_are_not_cut_over_a_ring() -> None:
    @dataclasses.dataclass(frozen=True)
    class Pairs(PackedRow):
        """Rows of another kind."""

    (row,) = rows(4096)
    pairs = Pairs(**{field.name: getattr(row, field.name) for field in dataclasses.fields(row)})
    circle = SimpleNamespace(size=2, rank=0)
    placement = SimpleNamespace(layout=Layout(context=2), circle=circle, num_readers=1, reader=0)
    assert isinstance(own_rows([row], placement)[0][0], RingRow)
    with pytest.raises(SettingsError, match="cannot be cut over a ring"):
        own_rows([pairs], placement)


def test_the_network_is_plain_again_afterwards(found) -> None:
    assert all(scenario["plain"] for scenario in found.values() if "ended" not in scenario)


def test_the_best_weights_come_back_on_split_ones(found, tmp_path) -> None:
    one = alone(tmp_path, "best")
    assert len(one["losses"]) < 20, "it must stop early"
    assert gap(found["best"], one, "weights") < 1e-4


def test_a_cap_on_one_rank_stops_all_of_them_with_a_checkpoint(found, folder) -> None:
    assert found["stopped"] == {"ended": "budget"}
    (checkpoint,) = (folder / "stopped").iterdir()
    assert checkpoint.name == "checkpoint-00000007"
    parts = sorted(path.name for path in (checkpoint / "weights.safetensors").iterdir())
    assert len(parts) == 2
    assert all(name.endswith(".safetensors") for name in parts), "nothing that can run code"


@pytest.mark.parametrize("name", ["on four", "on copies", "from copies"])
def test_a_stopped_run_goes_on_on_another_number_of_ranks(found, tmp_path, name: str) -> None:
    one = alone(tmp_path, "shard")
    assert found[name]["resumed_from"] == 7
    for key in ("losses", "validation", "weights"):
        assert gap(found[name], one, key) < 1e-5


def test_a_run_of_two_ranks_goes_on_on_one(found, folder, tmp_path) -> None:
    made = network()
    shutil.copytree(folder / "stopped", tmp_path / "again")
    result = run(made, settings({}, **SHORT), tmp_path / "again")
    assert result.resumed_from == 7
    assert gap(figures(made, result), alone(tmp_path / "one", "shard"), "weights") < 1e-5


@pytest.mark.parametrize("devices", [{"context": 2}, {"shard": 2}])
def test_a_killed_rank_ends_the_others_with_a_state_that_goes_on(devices: dict, tmp_path) -> None:
    what = {"name": "killed", "devices": devices, "settings": {"checkpoint_interval": 2, **SHORT}, "die_after": 7}
    found, codes = ranks(2, tmp_path, [what])
    assert codes == [0, -signal.SIGKILL]
    assert found == {"killed": {"ended": "worker"}}
    made = network()
    result = run(made, settings({}, checkpoint_interval=2, **SHORT), tmp_path / "killed")
    assert result.resumed_from == 6
    assert gap(figures(made, result), alone(tmp_path / "one", "shard"), "weights") < 1e-3


def test_a_damaged_part_is_refused(found, folder, tmp_path) -> None:
    shutil.copytree(folder / "stopped", tmp_path / "parts")
    for path in (tmp_path / "parts").rglob("shard-*"):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        run(network(), settings({}, **SHORT), tmp_path / "parts")


def test_more_ranks_than_the_job_has_are_refused(tmp_path) -> None:
    with pytest.raises(SettingsError, match=r"needs 2 ranks.*the job has 1"):
        run(network(), settings({"shard": 2}), tmp_path)


def test_rows_are_dealt_by_length() -> None:
    assert _dealt([9, 8, 3, 2, 1], 2) == [[0, 3, 4], [1, 2]]
    assert _dealt([5], 3) == [[0], [], []]
