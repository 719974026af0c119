"""A stand-in for the sandbox in tests of graders: a plain process and two pipes. It isolates nothing."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rung.scoring.sandbox.contract import Guest, GuestGone, GuestSlow, Limits, Outcome, Verdict

LIMITS = Limits()


class PipeGuest:
    """One program; `end` kills it."""

    def __init__(self, source: str, limits: Limits) -> None:
        there, self._requests = os.pipe()
        self._answers, back = os.pipe()
        start = f"_requests, _answers = {there}, {back}\nexec({source!r})\n"
        cap = f"import resource\nresource.setrlimit(resource.RLIMIT_CPU, ({max(1, int(limits.cpu_seconds))}, 99))\n"
        with tempfile.NamedTemporaryFile("w", suffix=".py", delete=False) as file:
            file.write(f"{cap}del resource\n{start}")
        self._path = Path(file.name)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(self._path)],
            pass_fds=(there, back), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        os.close(there)
        os.close(back)
        self._outcome: Outcome | None = None

    def send(self, data: bytes) -> None:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._requests, view) :]
        except BrokenPipeError as error:
            raise GuestGone("the program has ended") from error

    def receive(self, num_bytes: int, wall_seconds: float) -> bytes:
        deadline, parts = time.monotonic() + wall_seconds, []
        while num_bytes:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._answers], [], [], left)[0]:
                raise GuestSlow(f"no answer within {wall_seconds:.1f} seconds")
            part = os.read(self._answers, min(num_bytes, 1 << 20))
            if not part:
                raise GuestGone("the program has ended")
            parts.append(part)
            num_bytes -= len(part)
        return b"".join(parts)

    def end(self) -> Outcome:
        if self._outcome is None:
            code = self._process.poll()
            if code is None:
                try:
                    code = self._process.wait(0.05) if self._ended() else None
                except subprocess.TimeoutExpired:
                    code = None
            self._process.kill()
            errors = self._process.stderr.read()
            self._process.stderr.close()
            self._process.wait()
            os.close(self._requests)
            os.close(self._answers)
            self._path.unlink(missing_ok=True)
            verdict = {None: Verdict.OK, 0: Verdict.OK, -24: Verdict.CPU_LIMIT}.get(code, Verdict.FAILED)
            self._outcome = Outcome(verdict, b"", errors, 0.0, 0.0, code, errors[-300:].decode(), "pipe")
        return self._outcome

    def _ended(self) -> bool:
        return bool(select.select([self._answers], [], [], 0)[0])


class PipeSandbox:
    """Opens guests; runs whole programs with `subprocess`."""

    def open(self, source: str, limits: Limits = LIMITS) -> Guest:
        return PipeGuest(source, limits)

    def run(self, source: str, limits: Limits = LIMITS, stdin: bytes = b"") -> Outcome:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", source], input=stdin, capture_output=True, check=False, timeout=20
        )
        verdict = Verdict.OK if done.returncode == 0 else Verdict.FAILED
        return Outcome(verdict, done.stdout, done.stderr, 0.0, 0.0, done.returncode, "", "pipe")

    def close(self) -> None:
        """Nothing is kept."""
