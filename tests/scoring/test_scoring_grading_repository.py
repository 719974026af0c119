"""Repository tasks: an honest repair passes, no forgery does, and the next honest repair passes after each."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from tests.scoring.repository_programs import CODE, FORGERIES, MEAN, REPAIR, RIGHT, TASK, TESTS, WRONG

from rung.base.errors import DataError
from rung.scoring.grading.canaries import Planted, plant
from rung.scoring.grading.repository import RepositorySettings, check_repository, grade_repository, packages_for_tests
from rung.scoring.sandbox.contract import SandboxRefused
from rung.scoring.sandbox.ladder import climb
from rung.scoring.sandbox.rungs.landlock import Landlock
from rung.scoring.sandbox.settings import SandboxSettings

SETTINGS = RepositorySettings(cpu_seconds=8.0, file_seconds=6.0)
HURRY = RepositorySettings(cpu_seconds=2.0, file_seconds=3.0)
IN_TIME = {"no end", "much memory", "many processes"}


@pytest.fixture(scope="module")
def sandbox():
    try:
        opened = climb(packages_for_tests(SandboxSettings(slots=1))).sandbox
    except SandboxRefused as refused:
        pytest.skip(str(refused))
    yield opened
    opened.close()


def test_a_repair_passes_every_expected_test_and_may_add_files(sandbox):
    found = grade_repository(TASK, REPAIR, sandbox, SETTINGS)
    assert (found.ending, found.num_passed, found.alarms) == ("passed", 7, ()), found
    moved = {"src/figures/inner.py": RIGHT, CODE: "from figures.inner import label, mean\n"}
    assert grade_repository(TASK, moved, sandbox, SETTINGS).passed
    deleted = grade_repository(TASK, {CODE: None}, sandbox, SETTINGS)
    assert (deleted.ending, deleted.num_passed) == ("failed", 0)
    assert "figures.mean" in deleted.reason


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_passes_no_run_and_leaves_nothing(sandbox, name):
    found = grade_repository(TASK, FORGERIES[name], sandbox, HURRY if name in IN_TIME else SETTINGS)
    assert found.ending in ("failed", "void", "limit"), found
    assert name in IN_TIME or found.ending != "limit", found
    assert grade_repository(TASK, REPAIR, sandbox, SETTINGS).passed


@pytest.mark.parametrize(
    "name",
    [
        "pytest is patched to run nothing", "pytest is patched to see no error", "pytest's report is patched",
        "equal to everything", "outcomes told by the plugin",
    ],
)  # fmt: skip
def test_whoever_passes_everything_is_void_and_not_merely_failed(sandbox, name):
    found = grade_repository(TASK, FORGERIES[name], sandbox, SETTINGS)
    assert (found.ending, found.num_passed) == ("void", 0), found


def test_without_canaries_some_of_them_would_pass(sandbox, monkeypatch):
    """So the canaries are what holds them, and not something else by the way."""
    names = (
        "pytest is patched to run nothing", "pytest is patched to see no error", "equal to everything",
        "the tests that are known by name are not run",
    )  # fmt: skip
    few = SETTINGS.model_copy(update={"num_twisted": 0})
    assert grade_repository(TASK, FORGERIES["equal to everything"], sandbox, few).passed
    monkeypatch.setattr("rung.scoring.grading.repository.plant", lambda text, _: Planted(text, (), (), {}))
    assert all(grade_repository(TASK, FORGERIES[name], sandbox, SETTINGS).passed for name in names)


def test_what_was_restored_is_told(sandbox):
    found = grade_repository(TASK, REPAIR | FORGERIES["a hook in a conftest passes everything"], sandbox, SETTINGS)
    assert found.passed
    assert found.alarms == ("restored: conftest.py", "restored: src/conftest.py")


def test_a_test_that_fails_skips_or_is_missing_fails_the_run(sandbox):
    for body in ("    assert False", "    pytest.skip()", "    pytest.xfail()"):
        text = TESTS.replace("    assert mean([1, 3]) == 2", body)
        found = grade_repository(replace(TASK, files={**TASK.files, MEAN: text}), REPAIR, sandbox, SETTINGS)
        assert (found.ending, found.num_passed) == ("failed", 6), found
    missing = replace(TASK, expected=(*TASK.expected, f"{MEAN}::test_that_is_not_there"))
    found = grade_repository(missing, REPAIR, sandbox, SETTINGS)
    assert (found.ending, found.failures) == ("failed", {f"{MEAN}::test_that_is_not_there": "missing"})


def test_each_file_has_a_fresh_copy(sandbox):
    spoils = RIGHT + "import pathlib\npathlib.Path('tests/test_more.py').write_text('raise SystemExit')\n"
    assert grade_repository(TASK, {CODE: spoils}, sandbox, SETTINGS).passed


def test_a_task_is_checked_with_its_reference(sandbox):
    check_repository(TASK, REPAIR, sandbox, SETTINGS)
    with pytest.raises(DataError, match="reference is failed"):
        check_repository(TASK, {CODE: WRONG}, sandbox, SETTINGS)
    done = replace(TASK, files={**TASK.files, CODE: RIGHT})
    with pytest.raises(DataError, match="without any change"):
        check_repository(done, {}, sandbox, SETTINGS)


def test_programs_that_start_programs_need_their_rung():
    sandbox = Landlock().build(SandboxSettings(slots=1))
    with pytest.raises(SandboxRefused):
        grade_repository(TASK, REPAIR, sandbox, SETTINGS)
    sandbox.close()


def test_canaries_are_new_each_time_and_hold_what_they_say(tmp_path):
    first, second = plant(TESTS, 2), plant(TESTS, 2)
    assert not {*first.passing, *first.failing} & {*second.passing, *second.failing}
    assert (len(first.passing), len(first.failing)) == (1, 3)
    texts = {plant(TESTS, 2, random.Random(seed)).text for seed in range(20)}
    assert len(texts) == 20
    names: dict[str, object] = {"mean": lambda values: sum(values) / len(values), "label": "<{}>".format}
    source = first.text.replace("from figures.mean import label, mean", "")
    exec(compile(source, "canaries", "exec"), names)
    for name in first.passing:
        names[name]()
    for name in first.failing:
        with pytest.raises(AssertionError):
            names[name](tmp_path) if "tmp_path" in names[name].__code__.co_varnames else names[name]()


@pytest.mark.parametrize("literal", ["3", "2.5", "'a'", "b'a'", "[1]", "(1,)", "{1}", "{'a': 1}", "-4"])
def test_every_kind_of_literal_is_twisted_and_no_truth_value(literal):
    planted = plant(f"def test_f():\n    assert f() == {literal}\n", 3, random.Random(1))
    assert len(planted.failing) == 2
    assert literal in planted.text
    for other in ("True", "None", "f(2)"):
        assert len(plant(f"def test_f():\n    assert f() == {other}\n", 3).failing) == 1
    assert len(plant("@mark\ndef test_f():\n    assert f() == 3\n", 3).failing) == 1
    assert len(plant("def test_f():\n    for x in []:\n        assert f() == 3\n", 3).failing) == 1
