"""The share of the limit: the count is torch's own, ceilings are measured right, and parts of a step add up."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from bench import _ceilings, limit
from bench._ceilings import Ceilings, decode_work, fastest, product_rates, products, read_rate
from bench._stopwatch import Stopwatch
from torch.utils.flop_counter import FlopCounterMode

from rung.models.families.gemma3 import Gemma3
from rung.models.families.llama import Llama
from rung.models.load import load
from rung.models.network import Network

LENGTHS = (5, 20, 7)
UNTIED = Llama.SIZES["tiny"].model_copy(update={"tied_head": False})
NETWORKS = {
    "llama": lambda: Llama.build(Llama.SIZES["tiny"]),
    "untied": lambda: Llama.build(UNTIED),
    "windows": lambda: Gemma3.build(Gemma3.SIZES["tiny"]),
}


class Looking:
    """Every row looks at so many random keys, or at a window of them."""

    def __call__(self, layer: int, query: Any, key: Any, value: Any, *, scale: float, window: int) -> Any:
        """Attention output [B, 1, H, d]."""
        seen = []
        for row, length in zip(query, LENGTHS, strict=True):
            keys = torch.zeros((query.shape[2], min(length, window or length), query.shape[3]))
            weights = torch.bmm(row.transpose(0, 1), keys.transpose(1, 2)).softmax(-1)
            seen.append(torch.bmm(weights, keys).transpose(0, 1))
        return torch.stack(seen)


@pytest.mark.parametrize("name", NETWORKS)
@torch.inference_mode()
def test_our_count_of_operations_is_torchs(name: str) -> None:
    network: Network = NETWORKS[name]()
    rows = len(LENGTHS)
    with FlopCounterMode(display=False) as counter:
        hidden = network.hidden(torch.ones((rows, 1), dtype=torch.long), torch.zeros((rows, 1)), Looking())
        torch.mm(hidden[:, 0], network.output_weight.t())
    assert decode_work(network, LENGTHS).flops == counter.get_total_flops()


@pytest.mark.parametrize("name", NETWORKS)
def test_bytes_are_every_weight_once_and_the_rows_own_keys_and_values(name: str) -> None:
    network: Network = NETWORKS[name]()
    read = [p for key, p in network.named_parameters() if p.dim() == 2 and not (name == "untied" and "embed" in key)]
    shape = network.shape
    seen = sum(LENGTHS) * shape.num_layers - (2 * 12 if name == "windows" else 0)  # 20 positions, but a window of 8
    cached = 2 * seen * shape.num_kv_heads * shape.head_width * 4
    assert decode_work(network, LENGTHS).num_bytes == sum(p.nbytes for p in read) + cached


def test_products_are_grouped_by_shape_and_the_head_goes_in_pieces() -> None:
    network = NETWORKS["llama"]()
    found = products(network, 128)
    assert {shape: len(same) for shape, same in found.items()} == {
        (32, 32): 4, (32, 16): 4, (32, 64): 4, (64, 32): 2, (32, 128): 2, (32, 44): 1,
    }  # fmt: skip
    assert sum(w.numel() for same in found.values() for w in same) * 2 == decode_work(network, [0]).flops


def test_rates_are_measured_at_every_shape_in_the_asked_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[Any] = []
    monkeypatch.setattr(_ceilings, "fastest", lambda act: timed.append(act()) or 0.5)
    used: list[tuple[Any, ...]] = []
    real = torch.mm
    monkeypatch.setattr(torch, "mm", lambda a, b, out: used.append((len(a), b.dtype)) or real(a, b, out=out))
    network = NETWORKS["llama"]()
    rates = product_rates(network, 0, 3, torch.bfloat16)
    assert len(timed) == len(rates) == 5
    assert set(used) == {(3, torch.bfloat16)}
    assert rates[32, 32] == 2 * 3 * 4 * 32 * 32 / 0.5


def test_a_ceiling_is_the_quickest_of_the_calls_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    calls = iter((5.0, 3.0, 4.0, 1.0))

    def act() -> None:
        nonlocal now
        now += next(calls)

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    assert fastest(act, budget=10.0) == 3.0  # 12 are spent before the last


def test_memory_is_read_beyond_the_largest_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, size in enumerate(("32K", "1M", "200M", "?")):
        (tmp_path / f"index{place}").mkdir()
        (tmp_path / f"index{place}" / "size").write_text(f"{size}\n")
    monkeypatch.setattr(_ceilings, "CACHES", tmp_path)
    asked: list[int] = []
    monkeypatch.setattr(_ceilings, "read_rate", lambda num_bytes: asked.append(num_bytes) or 1.0)
    monkeypatch.setattr(_ceilings, "_best_square", lambda dtype: 1.0)
    _ceilings.ceilings()
    monkeypatch.setattr(_ceilings, "CACHES", tmp_path / "none")
    _ceilings.ceilings()
    assert asked == [8 * 200 << 20, 8 * 64 << 20]


def test_reading_takes_as_long_as_the_quicker_way(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter((2.0, 0.5))
    monkeypatch.setattr(_ceilings, "fastest", lambda act: act() is None or next(seconds))
    assert read_rate(1 << 20) == (1 << 20) / 0.5


class Program:
    """Two parts that call each other."""

    clock = 0.0

    def outer(self, fails: bool = False) -> None:
        """3 seconds of its own, and `inner` twice."""
        Program.clock += 1
        self.inner()
        Program.clock += 2
        self.inner()
        if fails:
            raise ValueError

    def inner(self) -> None:
        """10 seconds."""
        Program.clock += 10


def test_a_part_gets_its_own_time_alone_and_only_within_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter", lambda: Program.clock)
    untouched = (Program.outer, Program.inner)
    stopwatch = Stopwatch({"root": ((Program, "outer"),), "leaf": ((Program, "inner"),), "never": ()}, "root")
    with stopwatch.running():
        Program().inner()  # nobody's
        Program().outer()
        with pytest.raises(ValueError):
            Program().outer(fails=True)
        Program().inner()
    assert stopwatch.seconds == {"root": 6.0, "leaf": 40.0, "never": 0.0}
    assert (Program.outer, Program.inner) == untouched


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A tiny model measured against ceilings of 4e9 operations and 1e6 bytes per second."""
    rates = itertools.repeat({(32, 32): 2e9, (32, 16): 2e9, (32, 64): 2e9, (64, 32): 2e9, (32, 320): 2e9})
    monkeypatch.setattr(limit, "ceilings", lambda: Ceilings({"float32": 4e9, "bfloat16": 1e9}, 1e6))
    monkeypatch.setattr(limit, "product_rates", lambda *_: next(rates))
    loaded = load("tiny:llama", precision="float32", clean=False, strict=False, cache=tmp_path)
    monkeypatch.setattr(limit, "load", lambda source, **_: loaded)
    monkeypatch.setattr(limit, "SOURCES", ("tiny:llama",))
    line = limit.run(tmp_path, quick=True)
    assert "tiny:llama at 4 rows" in line
    report: dict[str, Any] = json.loads((tmp_path / "bench_limit.json").read_text())["results"]["tiny:llama"]
    return report


def test_every_part_of_a_step_is_found_in_the_engine(found: dict[str, Any]) -> None:
    for row in found["rows"].values():
        assert all(part["lowest"] > 0 for part in row["parts_milliseconds"].values())


def test_the_share_is_the_longer_bound_over_the_step(found: dict[str, Any]) -> None:
    row = found["rows"]["4"]
    bound = row["milliseconds"]
    assert row["bound_by"] == "bytes"
    assert row["share"]["median"] == pytest.approx(
        bound["limit_by_bytes"]["median"] / bound["step"]["median"], rel=2e-3
    )
    assert bound["limit_by_bytes"]["median"] == pytest.approx(row["megabytes_needed"] * 1e3, rel=1e-3)
    assert bound["limit_by_operations"]["median"] == pytest.approx(row["gigaflops_needed"] / 4 * 1e3, rel=1e-3)
    # without attention's two products, and at 2e9 instead of 4e9 operations per second
    network = Llama.build(Llama.SIZES["tiny"].model_copy(update={"vocabulary": 320}))
    assert bound["products_alone"]["median"] == pytest.approx(decode_work(network, [0] * 4).flops / 2e9 * 1e3, rel=1e-3)


def test_a_step_looks_at_one_position_more_than_the_step_before(tmp_path: Path) -> None:
    loaded = load("tiny:llama", precision="float32", clean=False, strict=False, cache=tmp_path)
    decoder = limit.Decoder(loaded, 4)
    works = decoder.decode(2, 4).works
    lengths = [len(loaded.tokenizer.document(text)) + 1 for text in limit.short_prompts(2)]
    assert works == tuple(decode_work(loaded.network, [n + step for n in lengths]) for step in range(3))
