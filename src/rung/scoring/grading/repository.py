"""Grade changes to a repository by its own tests: pristine tests, restored files, exact ids, canaries.

Here the tests must share a process with the code under test, and so an outcome is worth less than in `grade.py`. What
is done about that: every file outside `may_change` is the pristine one, and so is whatever could steer pytest or the
interpreter (conftest.py, settings files, sitecustomize.py, *.pth, the test files) wherever it lies; pytest is the
installed one, with the plugins that the task lists; each test file has a process, a copy of the repository and a nonce
of its own; each expected id has to be told as passed once, and a missing one has failed; and canaries (`canaries.py`)
with the wrong outcome void the run.

Code that knows the tests by what they do, finds the canaries in its own process and spares them would still pass.
Alarms say what a scan saw; hold out tests, and look at what was rewarded. For a single function, `grade.py` is the
safer way.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from rung.base.errors import DataError
from rung.base.files import plain_name
from rung.base.settings import Field, Settings
from rung.scoring.grading.canaries import Planted, plant
from rung.scoring.grading.problem import Ending, Grade
from rung.scoring.grading.scan import alarms
from rung.scoring.sandbox.contract import Limits, Outcome, Sandbox, Verdict
from rung.scoring.sandbox.settings import SandboxSettings

__all__ = ["Repository", "RepositorySettings", "check_repository", "grade_repository", "packages_for_tests"]

_STEERING = (
    "conftest.py", "pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml", "tox.ini", "setup.cfg",
    "pyproject.toml", "sitecustomize.py", "usercustomize.py", "*.pth", "*.pyc", ".coveragerc",
)  # fmt: skip
_OF_PYTEST = ("pytest", "_pytest", "py", "pluggy", "iniconfig", "packaging", "pygments")
_ARGUMENTS = ("-q", "-p", "no:cacheprovider", "--import-mode=importlib", "--rootdir=.")
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OPENBLAS_NUM_THREADS": "1"}
_LIMITS = {Verdict.CPU_LIMIT, Verdict.WALL_LIMIT, Verdict.MEMORY, Verdict.OUTPUT_LIMIT}


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository task.

    Args:
        files: path to text, all of the repository, tests included, as the task's author left them.
        may_change: patterns of paths that a solution may change, add or delete; `*` crosses folders.
        expected: ids of pytest, such as `tests/test_a.py::test_b`, all of which have to pass.
        paths: folders below the root from which code is imported, the first first.
        plugins: of pytest, by module; no other is loaded.
    """

    files: Mapping[str, str]
    may_change: tuple[str, ...]
    expected: tuple[str, ...]
    paths: tuple[str, ...] = ("src", ".")
    plugins: tuple[str, ...] = ()

    @property
    def test_files(self) -> tuple[str, ...]:
        """Where the expected tests are."""
        return tuple(dict.fromkeys(name.partition("::")[0] for name in self.expected))

    def tree(self, changes: Mapping[str, str | None]) -> tuple[dict[str, str], tuple[str, ...]]:
        """The files with what a solution may change changed, and the paths that it may not (None deletes)."""
        made, restored = dict(self.files), []
        for path, text in changes.items():
            if not self._allowed(path):
                restored.append(path)
            elif text is None:
                made.pop(path, None)
            else:
                made[path] = text
        return made, tuple(sorted(restored))

    def _allowed(self, path: str) -> bool:
        try:
            plain_name(path)
        except ValueError:
            return False
        name = PurePosixPath(path).name
        steers = path in self.test_files or any(fnmatch(name, one) for one in _STEERING)
        return str(PurePosixPath(path)) == path and not steers and any(fnmatch(path, one) for one in self.may_change)


class RepositorySettings(Settings):
    """What the tests may use, and how many canaries there are."""

    cpu_seconds: float = Field(60.0, gt=0, le=36_000, description="processor time of all test files together")
    file_seconds: float = Field(60.0, gt=0, le=36_000, description="clock time of one test file")
    memory_bytes: int = Field(1 << 30, ge=64 << 20, description="of all processes together")
    disk_bytes: int = Field(64 << 20, ge=1 << 20, description="room for the repository and what tests write")
    processes: int = Field(32, ge=4, le=512, description="processes at once")
    num_twisted: int = Field(3, ge=0, le=100, description="per file, its own tests once more with a wrong expectation")


@dataclass(frozen=True, slots=True)
class _Told:
    """What the test files' processes told: outcome and words by id, and why the run is void."""

    outcomes: dict[str, tuple[str, str]] = field(default_factory=dict)
    void: str = ""


def packages_for_tests(settings: SandboxSettings, more: Sequence[str] = ()) -> SandboxSettings:
    """The settings of a sandbox that can grade repositories: at the rung that lets programs start others, with pytest
    and with what else the tests import."""
    packages = tuple(dict.fromkeys((*settings.packages, *_OF_PYTEST, *more)))
    return settings.model_copy(update={"floor": "namespaces", "packages": packages})


def grade_repository(
    task: Repository,
    changes: Mapping[str, str | None],
    sandbox: Sandbox,
    settings: RepositorySettings | None = None,
) -> Grade:
    """Grade what a solution made of the files that it names; after a failure of the sandbox, once more."""
    settings = settings or RepositorySettings()
    found = _graded(task, changes, sandbox, settings)
    return _graded(task, changes, sandbox, settings) if found.ending == "infrastructure" else found


def check_repository(
    task: Repository,
    reference: Mapping[str, str | None],
    sandbox: Sandbox,
    settings: RepositorySettings | None = None,
) -> None:
    """A task is usable: its reference passes, with every canary that can be made, and the untouched files do not.

    Raises:
        DataError: it is not.
    """
    settings = (settings or RepositorySettings()).model_copy(update={"num_twisted": 100})
    whole = grade_repository(task, reference, sandbox, settings)
    if not whole.passed:
        raise DataError(f"its reference is {whole.ending}: {whole.reason}", place="repository task")
    if grade_repository(task, {}, sandbox, settings).passed:
        raise DataError("its tests pass without any change", place="repository task", hint="expect tests that fail")


def _graded(
    task: Repository, changes: Mapping[str, str | None], sandbox: Sandbox, settings: RepositorySettings
) -> Grade:
    tree, restored = task.tree(changes)
    planted = {name: plant(task.files[name], settings.num_twisted) for name in task.test_files}
    nonces = {name: secrets.token_hex(16) for name in planted}
    order = _order(task, tree, {name: one.text for name, one in planted.items()}, nonces)
    own = secrets.token_hex(16)
    order |= {"nonce": own, "seconds": settings.file_seconds}
    wall = settings.file_seconds * len(planted) + 30
    limits = Limits(
        cpu_seconds=settings.cpu_seconds,
        wall_seconds=wall,
        memory_bytes=settings.memory_bytes,
        output_bytes=32 << 20,
        file_bytes=settings.disk_bytes,
        processes=settings.processes,
    )
    outcome = sandbox.run(_program(), limits, json.dumps(order).encode())
    told = _told(outcome, own, nonces, planted)
    grade = _verdict(task, outcome, told)
    seen = [f"{path}: {one}" for path, text in changes.items() if text for one in alarms(text)]
    return replace(grade, alarms=(*(f"restored: {path}" for path in restored), *seen))


@lru_cache(maxsize=1)
def _program() -> str:
    return _text_of("_repository_runner.py") + "\n\nmain()\n"


def _text_of(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _order(
    task: Repository, tree: Mapping[str, str], tests: Mapping[str, str], nonces: Mapping[str, str]
) -> dict[str, Any]:
    """What the runner is told; each test file finds the others as they were."""
    plugins = [word for name in task.plugins for word in ("-p", name)]
    return {
        "files": dict(tree),
        "paths": list(task.paths),
        "child": _text_of("_repository_child.py") + "\n\nmain()\n",
        "environment": _ENVIRONMENT,
        "runs": [
            {
                "folder": f"repository-{secrets.token_hex(8)}",
                "files": {name: text},
                "nonce": nonces[name],
                "arguments": [*_ARGUMENTS, *plugins, name],
            }
            for name, text in tests.items()
        ],
    }


def _told(outcome: Outcome, own: str, nonces: Mapping[str, str], planted: Mapping[str, Planted]) -> _Told:
    """What the runner printed last, checked file by file."""
    line = outcome.stdout.decode(errors="replace").rpartition(own)[2]
    if outcome.verdict is not Verdict.OK or own not in outcome.stdout.decode(errors="replace"):
        return _Told()
    found = _Told()
    for (name, nonce), said in zip(nonces.items(), json.loads(line), strict=True):
        one = _of_file(name, nonce, said, planted[name])
        found = _Told(found.outcomes | one.outcomes, found.void or one.void)
    return found


def _of_file(name: str, nonce: str, said: str, planted: Planted) -> _Told:
    """Outcomes by id, of a file whose canaries all came out as they must; none of one where some are missing."""
    outcomes: dict[str, tuple[str, str]] = {}
    for line in said.splitlines():
        try:
            mark, test, outcome, words = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            return _Told(void=f"{name}: an outcome of no known form")
        if mark != nonce or not all(type(one) is str for one in (test, outcome, words)):
            return _Told(void=f"{name}: an outcome that no test told")
        if test in outcomes or test.partition("::")[0] != name:
            return _Told(void=f"{name}: {test[:200]} was told twice, or by another file")
        outcomes[test] = (outcome, words[-200:])
    canaries = [(one, "passed") for one in planted.passing] + [(one, "not passed") for one in planted.failing]
    for canary, wanted in canaries:
        outcome, _ = outcomes.pop(f"{name}::{canary}", ("", ""))
        if not outcome:
            return _Told({name: outcomes[name]} if name in outcomes else {})
        if outcome != wanted:
            return _Told(void=f"{name}: a canary that must be told as {wanted!r} was {outcome!r}")
    return _by_old_names(outcomes, planted.own)


def _by_old_names(outcomes: Mapping[str, tuple[str, str]], own: Mapping[str, str]) -> _Told:
    found = {}
    for test, told in outcomes.items():
        place, colons, name = test.rpartition("::")
        name, bracket, values = name.partition("[")
        if name in own.values():
            return _Told(void=f"{test[:200]} was told by a name that it does not have")
        found[f"{place}{colons}{own.get(name, name)}{bracket}{values}"] = told
    return _Told(found)


def _verdict(task: Repository, outcome: Outcome, told: _Told) -> Grade:
    total, seconds = len(task.expected), outcome.cpu_seconds
    ending: Ending = "failed"
    if outcome.verdict is Verdict.INFRASTRUCTURE:
        return Grade("infrastructure", 0, total, outcome.detail, cpu_seconds=seconds)
    if outcome.verdict in _LIMITS:
        return Grade("limit", 0, total, f"{outcome.verdict}: {outcome.detail}", cpu_seconds=seconds)
    if told.void:
        return Grade("void", 0, total, told.void, cpu_seconds=seconds)
    failures = {name: _words(name, told) for name in task.expected if told.outcomes.get(name, ("", ""))[0] != "passed"}
    if not failures:
        ending = "passed"
    reason = "; ".join(f"{name}: {words}" for name, words in list(failures.items())[:1])
    return Grade(ending, total - len(failures), total, reason[:500], cpu_seconds=seconds, failures=failures)


def _words(name: str, told: _Told) -> str:
    outcome, words = told.outcomes.get(name) or told.outcomes.get(name.partition("::")[0], ("missing", ""))
    return f"{outcome} {words}".strip()
