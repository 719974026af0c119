"""Grades per second: HumanEval's canonical solutions on rung's workers against one plain process for each of them.

A plain process isolates nothing and believes whatever the solution says; it is what a grade costs at least when a
Python is started for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench._paired import machine, paired
from rung.base.files import write_json
from rung.base.lookup import part
from rung.scoring.grading.problem import Problem, ProblemSettings, problem_of
from rung.scoring.grading.workers import Graders, WorkerSettings

__all__ = ["run"]

Job = tuple[Problem, str]


def run(results_folder: Path, quick: bool = False) -> str:
    """Measure and write `bench_grading.json`; the medians in one line."""
    jobs, rounds = (_jobs(8), 1) if quick else (_jobs(164), 5)
    num_workers = len(os.sched_getaffinity(0))
    passed: list[int] = []
    with Graders(WorkerSettings(num_workers=num_workers)) as graders:
        graders.grade(jobs[: 2 * num_workers])
        found = paired(lambda: _ours(graders, jobs, passed), lambda: _plain(jobs, num_workers), rounds)
        record = dict(graders.sandbox_record)
    report = {"machine": machine(), "quick": quick, "workers": num_workers}
    report |= {"solutions": len(jobs), "passed": min(passed)}
    results_folder.mkdir(parents=True, exist_ok=True)
    write_json(results_folder / "bench_grading.json", report | {"grades_per_second": found, "sandbox": record})
    return (
        f"{max(found['ours'])} grades/s on {num_workers} workers, {found['ratio_median']} of one plain process each; "
        f"{min(passed)} of {len(jobs)} pass"
    )


def _jobs(count: int) -> list[Job]:
    kind, settings = part("scoring.tasks", "human_eval")
    items = kind(settings).make(0, count, "held_out")
    problems = [ProblemSettings(**item.reference["checks"]["code"]["problem"]) for item in items]
    return [(problem_of(one), item.reference["answer"]) for one, item in zip(problems, items, strict=True)]


def _ours(graders: Graders, jobs: Sequence[Job], passed: list[int]) -> float:
    start = time.perf_counter()
    passed.append(sum(grade.passed for grade in graders.grade(jobs)))
    return len(jobs) / (time.perf_counter() - start)


def _plain(jobs: Sequence[Job], num_workers: int) -> float:
    start = time.perf_counter()
    with ThreadPoolExecutor(num_workers) as threads:
        list(threads.map(_in_a_process, jobs))
    return len(jobs) / (time.perf_counter() - start)


def _in_a_process(job: Job) -> int:
    problem, solution = job
    program = "\n".join((solution, *problem.tests))
    return subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, check=False).returncode
