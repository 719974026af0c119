"""Does a rung hold on this machine? A dozen small attacks and an honest program, run for real before it is used.

What a manual, a version or a kernel setting says counts for nothing here. The result goes into the records of whatever
was scored.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rung.scoring.sandbox.contract import Limits, Outcome, Sandbox, Verdict

__all__ = ["Finding", "SelfTest", "examine"]

_HONEST = (
    "import json, threading, asyncio, functools\n"
    "found = []\n"
    "thread = threading.Thread(target=found.append, args=(1,))\n"
    "thread.start(); thread.join()\n"
    "async def two(): return 2\n"
    "print(json.dumps([*found, asyncio.run(two())]))\n"
)
_HONEST_OUTPUT = b"[1, 2]\n"
# Each body ends without an exception only if the attack worked. PATH, PORT, NAME, PID are things outside.
_ATTACKS = {
    "read a file outside": "open(PATH).read()",
    "write a file outside": "open(PATH, 'a').write('x')",
    "reach a service over TCP": "import socket; socket.create_connection(('127.0.0.1', PORT), 2)",
    "reach an abstract socket": "import socket; socket.socket(socket.AF_UNIX).connect(chr(0) + NAME)",
    "point a socket pair elsewhere": (
        "import socket; pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM); pair[0].sendto(b'x', PATH)"
    ),
    "signal a process outside": "import os; os.kill(PID, 0)",
    "change limits of a process outside": "import resource; resource.prlimit(PID, resource.RLIMIT_NOFILE)",
    "start a process": "import os; os.fork()",
    "run another program": "import os; os.execv('/bin/true', ['true'])",
    "see the environment": "import os; assert os.environ",
    "find an open descriptor": "import os; assert any(_is_open(number) for number in range(3, 256))",
    "allocate 2 GiB": "bytearray(2 << 30)",
    "write 64 MiB": "open('/tmp/large', 'wb').write(bytes(64 << 20))",
    "raise a limit": "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
    "make a user namespace": "_call(272, 0x10000000)",
    "use the kernel's keys": "_call(250, 1, 0)",
    "set up io_uring": "_call(425, 8, ctypes.create_string_buffer(256))",
}
_FRAME = """
import ctypes, os
def _call(*words):
    assert ctypes.CDLL(None).syscall(*words) >= 0
def _is_open(number):
    try:
        return bool(os.fstat(number))
    except OSError:
        return False
try:
    {body}
except BaseException as error:
    print("stopped", repr(error))
else:
    print("got out")
"""
_LIMITS = Limits(cpu_seconds=2.0, wall_seconds=20.0)


@dataclass(frozen=True)
class Finding:
    """What one probe showed."""

    probe: str
    held: bool
    detail: str


@dataclass(frozen=True)
class SelfTest:
    """Of one rung: every probe's finding and how long all took."""

    rung: str
    findings: tuple[Finding, ...]
    milliseconds: float

    @property
    def passed(self) -> bool:
        """Every attack was stopped and the honest program ran."""
        return bool(self.findings) and all(finding.held for finding in self.findings)

    @property
    def failures(self) -> tuple[str, ...]:
        """The probes that did not hold, with what was seen."""
        return tuple(f"{finding.probe}: {finding.detail}" for finding in self.findings if not finding.held)


def examine(rung: str, sandbox: Sandbox) -> SelfTest:
    """Run every probe in `sandbox`; after the first failure of the sandbox itself there is nothing more to learn."""
    start = time.perf_counter()
    findings = [_honest(sandbox)]
    if findings[0].held:
        with _targets() as names:
            findings += [_attack(sandbox, name, names + _FRAME.format(body=body)) for name, body in _ATTACKS.items()]
        findings.append(_honest(sandbox))
    return SelfTest(rung, tuple(findings), (time.perf_counter() - start) * 1000)


def _honest(sandbox: Sandbox) -> Finding:
    outcome = sandbox.run(_HONEST, _LIMITS)
    held = outcome.verdict == Verdict.OK and outcome.stdout == _HONEST_OUTPUT
    return Finding("run an honest program", held, _seen(outcome))


def _attack(sandbox: Sandbox, name: str, source: str) -> Finding:
    outcome = sandbox.run(source, _LIMITS)
    stopped = outcome.verdict != Verdict.INFRASTRUCTURE and b"got out" not in outcome.stdout
    return Finding(name, stopped, _seen(outcome))


def _seen(outcome: Outcome) -> str:
    said = outcome.stdout.decode(errors="replace").strip()
    return " ".join(text for text in (outcome.verdict.value, said, outcome.detail) if text)[:300]


@contextlib.contextmanager
def _targets() -> Iterator[str]:
    """Things outside to reach for, as lines of source that name them."""
    name = f"rung-self-test-{os.getpid()}-{time.monotonic_ns()}"
    with (
        tempfile.TemporaryDirectory(prefix="rung-self-test-") as folder,
        socket.create_server(("127.0.0.1", 0)) as service,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        path = Path(folder) / "outside.txt"
        path.write_text("outside")
        path.chmod(0o666)
        Path(folder).chmod(0o777)
        abstract.bind("\0" + name)
        abstract.listen()
        port = service.getsockname()[1]
        yield f"PATH, PORT, NAME, PID = {str(path)!r}, {port}, {name!r}, {os.getpid()}\n"
