"""Sharing taken out is sharing taken out: more is computed and kept, the same is said, and a difference is shown."""

from __future__ import annotations

import copy
import json
from pathlib import Path

from experiments._unshared import unshared
from experiments.cache_memory import LIMIT, page
from tests.engine.engine_models import llama

from rung.engine.engine import Engine
from rung.engine.settings import EngineSettings
from rung.records.contracts import Completion, Request, Sampling

RESULTS = Path(__file__).parent.parent / "docs" / "results"


def test_without_sharing_the_same_is_said_and_every_prompt_is_computed_and_kept() -> None:
    made, sampling = llama(), Sampling(temperature=1.0, max_new_tokens=5)
    group = [Request(str(i), sampling, seed=i, token_ids=tuple(range(150))) for i in range(8)]
    computed, honest = [0], made.network.hidden

    def counted(token_ids_BT, positions_BT, attend):  # type: ignore[no-untyped-def]
        computed[-1] += token_ids_BT.numel() if token_ids_BT.shape[1] > 1 else 0
        return honest(token_ids_BT, positions_BT, attend)

    def sampled(engine: Engine) -> tuple[list[Completion], int]:
        computed.append(0)
        return engine.complete(group), engine.memory().cache

    engine = Engine(made, EngineSettings(num_slots=8))
    engine.complete(group[:1])
    engine.release()
    made.network.hidden = counted  # type: ignore[method-assign]
    together, shared = sampled(engine)
    engine.release()
    with unshared(engine):
        apart, whole = sampled(engine)
    engine.release()
    again, last = sampled(engine)
    assert apart == together == again
    assert 7 * computed[1] < computed[2]
    assert whole - shared == 7 * 256 * 256, "seven more prompts of two blocks, 256 bytes a position"
    assert (computed[3], last) == (computed[1], shared), "afterwards as it was"


def test_an_arm_that_says_something_else_is_shown() -> None:
    figures = json.loads((RESULTS / "cache_memory.json").read_text())
    assert "SOMETHING ELSE" not in page(figures)
    changed = copy.deepcopy(figures)
    changed["arms"][3]["tokens"] = ""
    assert page(changed).count("SOMETHING ELSE") == 1


def test_the_committed_figures_keep_the_limit_and_the_accounting() -> None:
    figures = json.loads((RESULTS / "cache_memory.json").read_text())
    arms = {(arm["way"], arm["shared"]): arm for arm in figures["arms"]}
    for (way, _), arm in arms.items():
        assert abs(arm["given_back_bytes"] - arm["accounted_bytes"]) < 0.02 * arm["accounted_bytes"] + 2**20
        assert "limit" not in way or arm["peak_bytes"] <= LIMIT << 20
    for shared in (True, False):
        assert arms["4 at a time", shared]["peak_bytes"] < arms["16 at once", shared]["peak_bytes"]
