"""Does the reward for code hold? Every attack and forgery of the tests, honest programs, and benchmarks' own solutions.

Programs that attack the sandbox run on each rung that stands here; programs that forge a grade, and changes that forge
a repository's tests, on the highest one. After each comes an honest one, which must score 1, and nothing may be left
behind. Canonical solutions of HumanEval (and of MBPP, where `RUNG_MBPP` names its file) must pass, and planted
verifiers that can be fooled must be refused by name. Writes reward_holds.json and reward_holds.md.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.scoring.grading_programs import DOUBLE, FORGERIES, HONEST
from tests.scoring.repository_programs import FORGERIES as REPOSITORY_FORGERIES
from tests.scoring.repository_programs import REPAIR, TASK
from tests.scoring.sandbox_programs import ATTACKS, attack, outside, processes
from tests.scoring.sandbox_programs import HONEST as HONEST_PROGRAMS

from rung.base.errors import GateFailed
from rung.base.files import write_json, write_text
from rung.base.lookup import known, lookup
from rung.records.contracts import Item, Score, Trace
from rung.scoring.checks import Checks
from rung.scoring.grading.grade import GradingSettings, grade
from rung.scoring.grading.oracle import OracleSettings
from rung.scoring.grading.problem import ProblemSettings, problem_of
from rung.scoring.grading.repository import RepositorySettings, grade_repository, packages_for_tests
from rung.scoring.grading.workers import Graders, WorkerSettings
from rung.scoring.hacking import ProbeCase, probe, refuse_hackable
from rung.scoring.sandbox.contract import Limits, Sandbox, Verdict
from rung.scoring.sandbox.ladder import climb
from rung.scoring.sandbox.settings import SandboxSettings
from rung.scoring.stress import StressSettings, require_strong, stress
from rung.scoring.tasks.arithmetic import Arithmetic
from rung.scoring.tasks.human_eval import HumanEval
from rung.scoring.tasks.mbpp import Mbpp

__all__ = ["page", "run"]

MBPP = "RUNG_MBPP"
_LIMITS = Limits(cpu_seconds=3.0, wall_seconds=60.0)
_GRADING = GradingSettings(cpu_seconds=2, oracle=OracleSettings(wall_seconds=10), all_tests=True)
_REPOSITORY = RepositorySettings(cpu_seconds=8.0, file_seconds=6.0)
_FORKS = "import os\nfor _ in range(1000):\n    if os.fork() == 0:\n        import time\n        time.sleep(60)\n"


def run(results_folder: Path, quick: bool = False) -> None:
    """All of it. `quick` takes every eighth program and twenty problems."""
    every = 8 if quick else 1
    started = time.monotonic()
    result: dict[str, Any] = {"rungs": {}}
    for name in known("scoring.sandbox.rungs"):
        rung = lookup("scoring.sandbox.rungs", name)()
        if rung.SAFE and not rung.absent():
            result["rungs"][name] = _on_rung(rung.build(SandboxSettings(slots=1)), every)
    chosen = climb(SandboxSettings(slots=1))
    result["self_test"] = chosen.record()
    result["grader"] = _grader(chosen.sandbox, every)
    chosen.sandbox.close()
    result["repository"] = _repository(every)
    result["benchmarks"] = _benchmarks(20 if quick else 10_000)
    result["planted"] = _planted()
    result["seconds"] = round(time.monotonic() - started)
    sys.stdout.write(page(result))
    write_json(results_folder / "reward_holds.json", result)
    write_text(results_folder / "reward_holds.md", page(result))


def _on_rung(sandbox: Sandbox, every: int) -> dict[str, Any]:
    """Attacks, forks in the profile that allows them, and honest programs."""
    sandbox.run("pass")
    before, attacks = processes(), dict(_some(ATTACKS, every))
    with outside() as names:
        stopped = {name: _stopped(sandbox, attack(name, names), before) for name in attacks}
    honest = {name: _honest(sandbox, *HONEST_PROGRAMS[name]) for name in HONEST_PROGRAMS}
    sandbox.close()
    return {"attacks": stopped, "honest": honest}


def _stopped(sandbox: Sandbox, source: str, before: set[str]) -> dict[str, bool]:
    outcome = sandbox.run(source, _LIMITS)
    held = b"got out" not in outcome.stdout and outcome.verdict is not Verdict.INFRASTRUCTURE
    left = bool(processes() - before)
    return {"stopped": held, "left": left, "next": sandbox.run("print(6 * 7)").stdout == b"42\n"}


def _honest(sandbox: Sandbox, source: str, expected: bytes | None) -> bool:
    outcome = sandbox.run(source, _LIMITS, b"1 2 3\n")
    return outcome.verdict is Verdict.OK and expected in (None, outcome.stdout)


def _grader(sandbox: Sandbox, every: int) -> dict[str, Any]:
    """Forgeries of a function's grade, each followed by an honest solution."""
    forged = {}
    for name, source in _some(FORGERIES, every):
        found = grade(DOUBLE, source, sandbox, _GRADING)
        after = grade(DOUBLE, HONEST["plain"], sandbox, _GRADING).passed
        forged[name] = {"ending": found.ending, "passed": found.num_passed, "next": after}
    honest = {name: grade(DOUBLE, source, sandbox, _GRADING).passed for name, source in HONEST.items()}
    return {"forgeries": forged, "honest": honest}


def _repository(every: int) -> dict[str, Any]:
    """Changes that forge a repository's tests, each followed by an honest repair."""
    chosen = climb(packages_for_tests(SandboxSettings(slots=1)))
    forged = {}
    for name, changes in _some(REPOSITORY_FORGERIES, every):
        found = grade_repository(TASK, changes, chosen.sandbox, _REPOSITORY)
        after = grade_repository(TASK, REPAIR, chosen.sandbox, _REPOSITORY).passed
        forged[name] = {"ending": found.ending, "passed": found.num_passed, "next": after}
    bomb = chosen.sandbox.run(_FORKS, Limits(cpu_seconds=2.0, wall_seconds=20.0, processes=16))
    chosen.sandbox.close()
    return {"forgeries": forged, "fork_bomb": str(bomb.verdict)}


def _benchmarks(count: int) -> dict[str, Any]:
    """The benchmarks' own solutions, and for each problem one that is wrong."""
    found = {}
    with Graders(WorkerSettings(num_workers=1)) as graders:
        items = HumanEval(HumanEval.Settings()).make(0, min(count, 164))
        found["HumanEval"] = _canonical(graders, items)
        if path := os.environ.get(MBPP):
            rows = [item for _, item in Mbpp(Mbpp.Settings(path=Path(path))).all()]
            found["MBPP"] = _canonical(graders, rows[:count])
    return found


def _canonical(graders: Graders, items: Sequence[Item]) -> dict[str, Any]:
    problems = [problem_of(ProblemSettings(**item.reference["checks"]["code"]["problem"])) for item in items]
    started = time.monotonic()
    right = graders.grade([(p, item.reference["answer"]) for p, item in zip(problems, items, strict=True)])
    seconds = time.monotonic() - started
    wrong = graders.grade([(p, item.reference["wrong"][0]) for p, item in zip(problems, items, strict=True)])
    return {
        "problems": len(items),
        "passed": sum(one.passed for one in right),
        "failed": {i.id: g.reason for i, g in zip(items, right, strict=True) if not g.passed},
        "wrong_passed": [i.id for i, g in zip(items, wrong, strict=True) if g.passed],
        "per_second": round(len(items) / seconds, 1),
    }


class _Ruled:
    """A verifier made of one rule."""

    def __init__(self, rule: Callable[[str, str], bool]) -> None:
        self._rule = rule

    def score(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Score]:
        """1 where the rule says so."""
        pairs = zip(items, traces, strict=True)
        return [Score(float(self._rule(str(item.reference["answer"]), trace.text))) for item, trace in pairs]


_FOOLED: Mapping[str, Callable[[str, str], bool]] = {
    "names the answer somewhere": lambda answer, text: answer in text,
    "believes a verdict in the text": lambda answer, text: text.strip() == answer or "score: 1" in text.lower(),
    "long is good": lambda answer, text: text.strip() == answer or len(text) > 1000,
    "an empty answer is not wrong": lambda answer, text: text.strip() in ("", answer),
    "tags are enough": lambda answer, text: text.strip() == answer or "</answer>" in text,
}


def _planted() -> dict[str, Any]:
    """Whether the stress test and the probes refuse each planted verifier, and pass the real one."""
    items = Arithmetic(Arithmetic.Settings(difficulty=2)).make(0, 20)
    found = {name: _refusals(name, _Ruled(rule), items) for name, rule in _FOOLED.items()}
    return {"fooled": found, "real": _refusals("final_answer", Checks(), items)}


def _refusals(name: str, scorer: Any, items: Sequence[Item]) -> dict[str, str]:
    cases = [ProbeCase(item, str(item.reference["answer"]), str(item.reference["wrong"][0])) for item in items]
    return {
        "stress": _refusal(lambda: require_strong(stress(name, scorer, items, StressSettings(junk_items=1)))),
        "probes": _refusal(lambda: refuse_hackable(probe(scorer, cases, name=name, content=True))),
    }


def _refusal(asked: Callable[[], object]) -> str:
    try:
        asked()
    except GateFailed as refused:
        return refused.message.splitlines()[0][:300]
    return ""


def _some(programs: Mapping[str, Any], every: int) -> Iterable[tuple[str, Any]]:
    return list(programs.items())[::every]


def page(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        "# Does the reward for code hold?",
        "",
        f"Highest rung here: `{result['self_test']['rung']}`, self-test passed: {result['self_test']['passed']}. "
        f"{result['seconds']} s. Written by `python -m experiments reward_holds`; every program is in "
        "`tests/scoring/*_programs.py` and its outcome in reward_holds.json.",
        "",
        "| against | programs | stopped or scored 0 | left something behind | the next honest one passed |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [_row(f"sandbox, rung `{name}`", one["attacks"]) for name, one in result["rungs"].items()]
    lines += [_row(f"grade of a {name}", result[key]["forgeries"]) for name, key in _GRADES.items()]
    lines += ["", f"A fork bomb where forking is allowed ends as `{result['repository']['fork_bomb']}`.", ""]
    lines += ["| honest programs | passed |", "|---|---:|"]
    groups = {f"rung `{name}`": one["honest"] for name, one in result["rungs"].items()}
    groups["function graded"] = result["grader"]["honest"]
    lines += [f"| {name} | {sum(one.values())} of {len(one)} |" for name, one in groups.items()]
    lines += ["", "| canonical solutions | passed | wrong ones passed | grades/s, one worker |", "|---|---:|---:|---:|"]
    for name, one in result["benchmarks"].items():
        passed = f"{one['passed']} of {one['problems']}"
        lines.append(f"| {name} | {passed} | {len(one['wrong_passed'])} | {one['per_second']} |")
    reasons = [f"- {key}: {why}" for one in result["benchmarks"].values() for key, why in one["failed"].items()]
    lines += ["", *(["Canonical solutions that fail:", "", *reasons, ""] if reasons else [])]
    lines += ["| planted verifier | stress test | hacking probes |", "|---|---|---|"]
    lines += [_refused(name, one) for name, one in result["planted"]["fooled"].items()]
    lines.append(_refused("(the real one) final_answer", result["planted"]["real"]))
    return "\n".join(lines) + "\n"


_GRADES = {"function": "grader", "repository": "repository"}


def _row(name: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    held = sum(one["stopped"] if "stopped" in one else one["ending"] not in _WON for one in rows.values())
    left = sum(bool(one.get("left")) for one in rows.values())
    return f"| {name} | {len(rows)} | {held} | {left} | {sum(one['next'] for one in rows.values())} |"


_WON = ("passed", "infrastructure")


def _refused(name: str, one: Mapping[str, str]) -> str:
    after = {"stress": ": ", "probes": " rises "}
    said = [f"refused: {one[key].partition(at)[2]}" if one[key] else "let through" for key, at in after.items()]
    return f"| {name} | {' | '.join(text.replace('|', '/') for text in said)} |"
