"""Every family of attack is stopped on each rung that stands here, leaves nothing behind, and the next program runs."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.scoring.grading_sandboxes import skip_where_the_kernel_denies
from tests.scoring.sandbox_programs import ATTACKS, HONEST, attack, outside, processes

from rung.base.lookup import lookup
from rung.scoring.sandbox.contract import Limits, Sandbox, Verdict
from rung.scoring.sandbox.selftest import examine
from rung.scoring.sandbox.settings import SandboxSettings

LIMITS = Limits(cpu_seconds=3.0, wall_seconds=60.0)


@pytest.fixture(scope="module", params=["namespaces", "landlock"])
def box(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    rung = lookup("scoring.sandbox.rungs", request.param)()
    if missing := rung.absent():
        pytest.skip(missing)
    sandbox = rung.build(SandboxSettings(slots=1))
    skip_where_the_kernel_denies(sandbox)
    yield sandbox
    sandbox.close()


@pytest.fixture(scope="module", name="outside")
def things_outside() -> Iterator[str]:
    with outside() as names:
        yield names


@pytest.mark.parametrize("name", ATTACKS)
def test_the_attack_is_stopped_and_leaves_nothing(box: Sandbox, outside: str, name: str) -> None:
    box.run("pass")
    before, files = processes(), set(os.listdir("/tmp"))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    outcome = box.run(attack(name, outside), LIMITS)
    assert outcome.verdict != Verdict.INFRASTRUCTURE, outcome.detail
    assert b"got out" not in outcome.stdout
    assert b"stopped" in outcome.stdout or outcome.verdict in {Verdict.REFUSED, Verdict.KILLED}, outcome
    assert processes() == before
    assert not {n for n in set(os.listdir("/tmp")) - files if n in {"link", "hard", "large", "disk"}}
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == limits
    assert box.run("print(sum(range(5)))").stdout == b"10\n"


def test_the_attacks_work_where_nothing_holds_them(outside: str) -> None:
    """Otherwise "stopped" would say nothing: without isolation, what does not depend on privileges gets out."""
    sandbox = lookup("scoring.sandbox.rungs", "unsafe_subprocess")().build(SandboxSettings(slots=1))
    names = ["tcp", "udp", "abstract socket", "read a file", "write a file", "signal outside", "limits of another"]
    # not this process, whose limits would stay changed
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            there = f"{outside}PID = {other.pid}\n"
            outcomes = {name: sandbox.run(attack(name, there), LIMITS) for name in names}
        finally:
            sandbox.close()
            other.kill()
    names_of_things: dict[str, str] = {}
    exec(outside, names_of_things)
    Path(names_of_things["PATH"]).write_text("outside")
    assert {name for name, o in outcomes.items() if b"got out" in o.stdout} == set(names)


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_program_passes(box: Sandbox, name: str) -> None:
    source, expected = HONEST[name]
    outcome = box.run(source, stdin=b"1 2 3\n")
    assert outcome.verdict == Verdict.OK, (outcome.detail, outcome.stderr[-500:])
    assert expected is None or outcome.stdout == expected
    assert outcome.exit_code == 0


def test_numpy_passes_and_other_packages_are_out_of_sight(box: Sandbox) -> None:
    pytest.importorskip("numpy")
    assert box.run("import numpy\nprint(int(numpy.arange(5).sum()))").stdout == b"10\n"
    assert box.run("import pydantic").verdict == Verdict.FAILED


def test_nothing_stays_for_the_next_program(box: Sandbox) -> None:
    box.run("import math, os\nmath.pi = 3\nopen('/tmp/note', 'w').write('x')")
    left = box.run("import math, os\nprint(math.pi > 3.1, os.path.exists('/tmp/note'), os.environ)")
    assert left.stdout == b"True False environ({})\n"


def test_the_same_program_draws_the_same_numbers_and_another_one_others(box: Sandbox) -> None:
    source = "import random\nprint(random.random(), {'a', 'b', 'c', 'd', 'e'})"
    first, second = box.run(source), box.run(source)
    assert first.stdout == second.stdout
    assert box.run(source + "\n").stdout != first.stdout


def test_the_self_test_passes_here_and_fails_without_isolation(box: Sandbox) -> None:
    assert examine("this", box).failures == ()
    unsafe = lookup("scoring.sandbox.rungs", "unsafe_subprocess")().build(SandboxSettings(slots=1))
    try:
        seen = examine("unsafe", unsafe)
    finally:
        unsafe.close()
    assert not seen.passed
    assert len(seen.failures) >= 6
