"""Verdicts, guests, workers that die, and the ladder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.scoring.grading_sandboxes import skip_where_the_kernel_denies

import rung
from rung.base.lookup import known
from rung.scoring.sandbox import ladder
from rung.scoring.sandbox.contract import GuestGone, GuestSlow, Limits, SandboxRefused, Verdict
from rung.scoring.sandbox.pool import Pool
from rung.scoring.sandbox.rungs.namespaces import Namespaces
from rung.scoring.sandbox.rungs.unsafe_subprocess import UnsafeSubprocess
from rung.scoring.sandbox.selftest import Finding, SelfTest
from rung.scoring.sandbox.settings import SandboxSettings

ECHO = "import os\nwhile data := os.read(_requests, 65536): os.write(_answers, data.upper())\n"
READ_FIRST = (
    "import time\ndata = open(_requests, 'rb').read(250_000)\n"
    "open(_answers, 'wb').write(data.upper())\ntime.sleep(60)\n"
)
SETTINGS = SandboxSettings(slots=1, packages=())


@pytest.fixture
def box() -> Iterator[Pool]:
    sandbox = Namespaces().build(SETTINGS)
    assert isinstance(sandbox, Pool)
    skip_where_the_kernel_denies(sandbox)
    yield sandbox
    sandbox.close()


def worker_pid(box: Pool) -> int:
    worker = box._slots[0].worker
    assert worker is not None
    return worker._process.pid


@pytest.mark.parametrize(
    ("source", "limits", "verdict"),
    [
        ("print('x')", Limits(), Verdict.OK),
        ("1 / 0", Limits(), Verdict.FAILED),
        ("not python", Limits(), Verdict.FAILED),
        ("while True: pass", Limits(cpu_seconds=0.2), Verdict.CPU_LIMIT),
        ("import signal\nsignal.signal(signal.SIGXCPU, lambda *a: 0)\nwhile 1: pass", Limits(0.2), Verdict.CPU_LIMIT),
        ("import time\ntime.sleep(60)", Limits(wall_seconds=0.2), Verdict.WALL_LIMIT),
        ("input()\nx = bytearray(1 << 30)", Limits(), Verdict.MEMORY),
        ("while True: print('x' * 1000)", Limits(output_bytes=5000), Verdict.OUTPUT_LIMIT),
        ("import sys\nwhile True: sys.stderr.write('x')", Limits(output_bytes=5000), Verdict.OUTPUT_LIMIT),
        ("import ctypes\nctypes.string_at(0)", Limits(), Verdict.KILLED),
        ("import ctypes\nctypes.CDLL(None).syscall(425, 8, None)", Limits(), Verdict.REFUSED),
    ],
)  # fmt: skip
def test_each_way_to_end_has_its_verdict(box: Pool, source: str, limits: Limits, verdict: Verdict) -> None:
    outcome = box.run(source, limits, stdin=b"line\n")
    assert outcome.verdict == verdict, outcome
    assert len(outcome.stdout) + len(outcome.stderr) <= limits.output_bytes
    assert outcome.rung == "namespaces"
    assert (outcome.exit_code == 0) == (verdict == Verdict.OK)


def test_an_exit_code_and_a_closed_output_are_what_they_are(box: Pool) -> None:
    assert box.run("raise SystemExit(7)").exit_code == 7
    assert box.run("import os\nos.close(1)\nos.close(2)\nos._exit(3)").exit_code == 3


def test_what_a_program_says_about_the_sandbox_is_not_believed(box: Pool) -> None:
    """It has no way to the worker's socket, and cannot claim that the sandbox failed."""
    forged = box.run("import os\n[os.write(n, b'f') for n in (1, 2)]\nos._exit(1)")
    assert forged.verdict == Verdict.FAILED


TELL = """
import os
try:
    os.write(os.open("/proc/1/fd/5", os.O_WRONLY), TEXT)
    print("got out")
except OSError:
    print("stopped")
os._exit(3)
"""


@pytest.mark.parametrize("text", [b"0", b"-1", b"not a number", b"9" * 60])
def test_a_program_cannot_speak_for_the_process_that_tells_how_it_ended(box: Pool, text: bytes) -> None:
    outcome = box.run(f"TEXT = {text!r}{TELL}", Limits(processes=8))
    assert (outcome.verdict, outcome.exit_code, outcome.stdout) == (Verdict.FAILED, 3, b""), outcome
    assert box.run(f"TEXT = b''{TELL}".replace("os._exit(3)", ""), Limits(processes=8)).stdout == b"stopped\n"


def test_a_program_cannot_end_the_process_that_tells_how_it_ended(box: Pool) -> None:
    source = "import os, signal, time\nfor s in range(1, 65):\n    try: os.kill(1, s)\n    except OSError: pass\n"
    outcome = box.run(source + "time.sleep(0.2)\nprint('here')", Limits(processes=8))
    assert (outcome.verdict, outcome.stdout) == (Verdict.OK, b"here\n"), outcome


def test_what_a_program_reads_it_cannot_write(box: Pool) -> None:
    outcome = box.run("import os\nprint(input())\nos.write(0, b'x')", stdin=b"line\n")
    assert (outcome.verdict, outcome.stdout) == (Verdict.FAILED, b"line\n")
    assert b"PermissionError" in outcome.stderr


def test_programs_that_start_programs_run_in_their_profile_and_end_with_it(box: Pool) -> None:
    source = (
        "import os, subprocess, sys\n"
        "print(subprocess.run([sys.executable, '-c', 'print(6 * 7)'], capture_output=True).stdout)\n"
        "if os.fork() == 0:\n    os.setsid()\n    import time\n    time.sleep(60)\n"
    )
    outcome = box.run(source, Limits(processes=8, wall_seconds=60.0))
    assert outcome.stdout == b"b'42\\n'\n", outcome
    assert outcome.verdict == Verdict.OK
    bomb = box.run("import os\nwhile True: os.fork()", Limits(cpu_seconds=0.5, processes=8))
    assert bomb.verdict != Verdict.INFRASTRUCTURE
    assert bomb.verdict != Verdict.OK
    assert box.run("print(1)").stdout == b"1\n"


def test_memory_counts_over_all_processes_of_a_program(box: Pool) -> None:
    source = (
        "import os, time\n"
        "for _ in range(4):\n"
        "    if os.fork() == 0:\n"
        "        x = bytearray(os.urandom(1 << 20)) * 60\n"
        "        time.sleep(30)\n"
        "time.sleep(30)\n"
    )
    outcome = box.run(source, Limits(processes=8, memory_bytes=200 << 20, wall_seconds=20.0))
    assert outcome.verdict == Verdict.MEMORY


def test_a_guest_answers_and_is_ended_without_blame(box: Pool) -> None:
    guest = box.open(READ_FIRST)
    guest.send(b"hello" * 50_000)
    assert guest.receive(250_000, 20.0) == b"HELLO" * 50_000
    first = guest.end()
    assert first.verdict == Verdict.OK
    assert guest.end() is first
    with pytest.raises(GuestGone):
        guest.send(b"x")


def test_a_guest_that_is_silent_or_gone_is_told_apart(box: Pool) -> None:
    silent = box.open("import time\ntime.sleep(60)")
    with pytest.raises(GuestSlow):
        silent.receive(1, 0.1)
    assert silent.end().verdict == Verdict.OK
    gone = box.open("import os\nos.write(_answers, b'ab')\nraise SystemExit(3)")
    assert gone.receive(2, 20.0) == b"ab"
    with pytest.raises(GuestGone):
        gone.receive(1, 20.0)
    assert gone.end().exit_code == 3


def test_a_guests_flood_ends_it_while_its_owner_waits(box: Pool) -> None:
    guest = box.open("while True: print('x' * 1000)", Limits(output_bytes=10_000))
    with pytest.raises(GuestGone):
        guest.receive(1, 20.0)
    assert guest.end().verdict == Verdict.OUTPUT_LIMIT


def test_a_worker_that_was_killed_before_is_replaced_without_a_word(box: Pool) -> None:
    before = worker_pid(box)
    os.kill(before, signal.SIGKILL)
    assert box.run("print(1)").stdout == b"1\n"
    assert worker_pid(box) != before


def test_a_worker_that_is_killed_during_a_program_is_retried_once_and_never_blamed_on_it(box: Pool) -> None:
    timers = [threading.Timer(0.3, os.kill, (worker_pid(box), signal.SIGKILL))]
    timers[0].start()
    assert box.run("import time\ntime.sleep(1)\nprint(1)").stdout == b"1\n"
    guest = box.open(ECHO)
    os.kill(worker_pid(box), signal.SIGKILL)
    with pytest.raises(GuestGone):
        guest.receive(1, 20.0)
    assert guest.end().verdict == Verdict.INFRASTRUCTURE
    assert box.run("print(2)").stdout == b"2\n"


def test_a_worker_that_always_fails_is_an_infrastructure_verdict(monkeypatch: pytest.MonkeyPatch, box: Pool) -> None:
    box._slots[0].empty()
    monkeypatch.setattr("rung.scoring.sandbox.worker.INTERPRETER", "/bin/false")
    outcome = box.run("print(1)")
    assert outcome.verdict == Verdict.INFRASTRUCTURE
    assert "did not start" in outcome.detail
    guest = box.open("print(1)")
    with pytest.raises(GuestGone):
        guest.receive(1, 1.0)
    assert guest.end().verdict == Verdict.INFRASTRUCTURE


def test_workers_are_replaced_after_so_many_programs_and_no_descriptor_is_lost() -> None:
    sandbox = Namespaces().build(SETTINGS.model_copy(update={"jobs_per_worker": 3}))
    assert isinstance(sandbox, Pool)
    try:
        pids, held = set(), set()
        skip_where_the_kernel_denies(sandbox)
        sandbox._slots[0].empty()
        for _ in range(7):
            assert sandbox.run("pass").verdict == Verdict.OK
            worker = sandbox._slots[0].worker
            pids.add(worker._process.pid if worker else None)
            held.add(len(os.listdir("/proc/self/fd")) - (worker is not None))
    finally:
        sandbox.close()
    assert len(pids - {None}) == 3
    assert len(held) == 1


def test_a_busy_slot_is_waited_for_only_so_long_and_a_closed_sandbox_refuses() -> None:
    sandbox = Namespaces().build(SETTINGS.model_copy(update={"wait_seconds": 0.1}))
    guest = sandbox.open(ECHO)
    assert sandbox.run("pass").verdict == Verdict.INFRASTRUCTURE
    guest.end()
    sandbox.close()
    with pytest.raises(SandboxRefused):
        sandbox.run("pass")


def fake_examine(failing: set[str]) -> object:
    def examine(rung: str, sandbox: object) -> SelfTest:
        return SelfTest(rung, (Finding("p", rung not in failing, "seen"),), 1.0)

    return examine


def test_the_ladder_takes_the_highest_rung_that_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "examine", fake_examine(set()))
    assert ladder.climb(SETTINGS).rung == "namespaces"
    monkeypatch.setattr(ladder, "examine", fake_examine({"namespaces"}))
    chosen = ladder.climb(SETTINGS)
    assert chosen.rung == "landlock"
    assert chosen.record()["passed_over"] == ["namespaces: p: seen"]
    with pytest.raises(SandboxRefused, match="namespaces: p: seen"):
        ladder.climb(SETTINGS.model_copy(update={"floor": "namespaces"}))


def test_the_rung_without_isolation_is_only_for_who_asks_and_never_for_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "examine", fake_examine(set(known("scoring.sandbox.rungs"))))
    unsafe = SETTINGS.model_copy(update={"unsafe_plain_subprocess": True})
    for settings, for_rewards in ((SETTINGS, False), (unsafe, True)):
        with pytest.raises(SandboxRefused):
            ladder.climb(settings, for_rewards=for_rewards)
    chosen = ladder.climb(unsafe, for_rewards=False)
    assert chosen.rung == "unsafe_subprocess"
    assert not chosen.record()["passed"]
    with pytest.raises(SandboxRefused):
        UnsafeSubprocess().build(SETTINGS).run("pass", Limits(processes=2))


def test_few_descriptors_of_the_caller_are_enough(box: Pool) -> None:
    """Whoever started the caller may have left it no more than 64."""
    source = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))" + AS_SOMEBODY
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert done.stdout == "namespaces ()\nlandlock ()\n", done.stderr


AS_SOMEBODY = """
from rung.base.lookup import lookup
from rung.scoring.sandbox.selftest import examine
from rung.scoring.sandbox.settings import SandboxSettings
for name in ("namespaces", "landlock"):
    sandbox = lookup("scoring.sandbox.rungs", name)().build(SandboxSettings(slots=1, packages=()))
    print(name, examine(name, sandbox).failures)
    sandbox.close()
"""


def test_both_rungs_hold_when_somebody_without_privileges_starts_them() -> None:
    python = shutil.which("python3", path="/usr/bin")
    if os.getuid() != 0 or python is None:
        pytest.skip("needs root, to become somebody else, and a Python that everybody may start")
    paths = f"{Path(rung.__file__).parents[1]}:{sysconfig.get_path('purelib')}"
    done = subprocess.run(
        [python, "-c", AS_SOMEBODY], env={"PYTHONPATH": paths}, user=23456, group=23456, extra_groups=[], cwd="/",
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "Error" in done.stderr:
        pytest.skip(f"that Python cannot run rung: {done.stderr.strip()[-200:]}")
    assert done.stdout == "namespaces ()\nlandlock ()\n"
