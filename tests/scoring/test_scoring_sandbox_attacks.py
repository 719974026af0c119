"""Every family of attack is stopped on each rung that stands here, leaves nothing behind, and the next program runs."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandbox_programs import ATTACKS, HONEST, attack, skip_where_the_kernel_denies

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


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = Path("/tmp") / f"rung-outside-{os.getpid()}"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    path, where = folder / "open.txt", folder / "socket"
    path.write_text("outside")
    path.chmod(0o666)
    installed = sysconfig.get_path("purelib")
    name = f"rung-{os.getpid()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as service,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as file,
    ):
        abstract.bind("\0" + name)
        abstract.listen()
        file.bind(str(where))
        where.chmod(0o777)
        yield (
            f"PATH, PORT, NAME, PID, SOCKET = {str(path)!r}, {service.getsockname()[1]}, {name!r}, {os.getpid()}, "
            f"{str(where)!r}\nINSTALLED, PACKAGE = [{installed!r}], {pytest.__file__!r}\n"
        )
    assert path.read_text() == "outside"
    assert sorted(p.name for p in folder.iterdir()) == ["open.txt", "socket"]
    for left in (path, where):
        left.unlink()
    folder.rmdir()


def others_of_ours() -> set[str]:
    """Processes of this machine whose command line is a worker's of this test."""
    return {p for p in os.listdir("/proc") if p.isdigit() and b"sandbox.inside" in _command(p)}


def _command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() if _ancestor(int(pid)) else b""
    except OSError:
        return b""


def _ancestor(pid: int) -> bool:
    while pid > 1:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        pid = int(fields[1])
        if pid == os.getpid():
            return True
    return False


@pytest.mark.parametrize("name", ATTACKS)
def test_the_attack_is_stopped_and_leaves_nothing(box: Sandbox, outside: str, name: str) -> None:
    box.run("pass")
    before, files = others_of_ours(), set(os.listdir("/tmp"))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    outcome = box.run(attack(name, outside), LIMITS)
    assert outcome.verdict != Verdict.INFRASTRUCTURE, outcome.detail
    assert b"got out" not in outcome.stdout
    assert b"stopped" in outcome.stdout or outcome.verdict in {Verdict.REFUSED, Verdict.KILLED}, outcome
    assert others_of_ours() == before
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
        path = Path("/tmp") / f"rung-outside-{os.getpid()}" / "open.txt"
        path.write_text("outside")
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
