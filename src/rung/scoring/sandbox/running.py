"""One running program, from the pool's side: its output as it comes, its end, and what is to be said about it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rung.scoring.sandbox.contract import GuestGone, GuestSlow, Limits, Outcome, Verdict
from rung.scoring.sandbox.inside import wire
from rung.scoring.sandbox.inside.wire import Ending, Reason
from rung.scoring.sandbox.worker import Broken, Worker

__all__ = ["Conversation", "Running"]

_PIECE = 1 << 16
# The worker ends a program at its wall; a worker that has not done so this much later is itself stuck. So long, too,
# an ended program's output is read, which a process it left behind (on the unsafe rung) may hold open.
_GRACE_SECONDS = 15.0
_SETTLE_SECONDS = 1.0
_NO_MEMORY = b"MemoryError"
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@dataclass
class _Output:
    """What came out of one descriptor so far."""

    descriptor: int
    pieces: list[bytes] = field(default_factory=list)

    def text(self) -> bytes:
        return b"".join(self.pieces)


class Running:
    """A program at work in `worker`.

    Raises:
        Broken: it could not begin.
    """

    def __init__(
        self, worker: Worker, source: str, limits: Limits, stdin: bytes = b"", also: tuple[int, ...] = ()
    ) -> None:
        self.worker, self.limits, self.started = worker, limits, time.monotonic()
        self._ending: Ending | None = None
        self._lost, self._flooded, self._num_bytes = "", False, 0
        out, theirs_out = os.pipe()
        err, theirs_err = os.pipe()
        reading = _input(stdin)
        self._outputs = {out: _Output(out), err: _Output(err)}
        self._stdout, self._stderr = self._outputs[out], self._outputs[err]
        try:
            worker.order(source, limits, (reading, theirs_out, theirs_err, *also))
        except Broken:
            self._close()
            raise
        finally:
            for descriptor in (reading, theirs_out, theirs_err):
                os.close(descriptor)
        self._poller = select.poll()
        for descriptor in (out, err, worker.socket.fileno()):
            self._poller.register(descriptor, select.POLLIN)

    @property
    def over(self) -> bool:
        """The program has ended, or its worker is lost."""
        return self._ending is not None or bool(self._lost)

    def turn(self, seconds: float, descriptor: int = -1, event: int = 0) -> bool:
        """Take what has come, waiting at most so long; whether `event` happened at `descriptor`."""
        if descriptor >= 0:
            self._poller.register(descriptor, event)
        try:
            ready = [number for number, _ in self._poller.poll(max(0.0, seconds) * 1000)]
        finally:
            if descriptor >= 0:
                self._poller.unregister(descriptor)
        for number in ready:
            if number in self._outputs:
                self._read(number)
            elif number != descriptor:
                self._hear()
        if not self.over and time.monotonic() - self.started > self.limits.wall_seconds + _GRACE_SECONDS:
            self._lost = "the worker did not end the program at its wall"
        return descriptor in ready

    def finish(self, rung: str) -> Outcome:
        """Wait for the end, take the rest of the output, and say how it went."""
        while not self.over:
            self.turn(1.0)
        seconds = time.monotonic() - self.started
        patience = time.monotonic() + _GRACE_SECONDS
        while self._outputs and not self._lost and time.monotonic() < patience:
            self.turn(1.0)
        self._close()
        verdict, detail, code = self._judge()
        used = self._ending.cpu_seconds if self._ending else 0.0
        kept = self.limits.output_bytes
        stdout = self._stdout.text()[:kept]
        return Outcome(verdict, stdout, self._stderr.text()[: kept - len(stdout)], used, seconds, code, detail, rung)

    def _read(self, number: int) -> None:
        piece = os.read(number, _PIECE)
        if not piece:
            self._drop(number)
        elif not self._flooded:
            self._outputs[number].pieces.append(piece)
            self._num_bytes += len(piece)
            if self._num_bytes > self.limits.output_bytes:
                self._flooded = True
                self.worker.stop_program()

    def _drop(self, number: int) -> None:
        del self._outputs[number]
        self._poller.unregister(number)
        os.close(number)

    def _hear(self) -> None:
        try:
            message = wire.receive(self.worker.socket)
            if message.tag != wire.ENDED:
                raise wire.Closed
            self._ending = Ending.unpack(message.payload)
        except (OSError, struct.error, wire.Closed) as error:
            self._lost = f"the worker was lost while the program ran: {error}"
        self._poller.unregister(self.worker.socket)

    def _close(self) -> None:
        for number in list(self._outputs):
            os.close(number)
            del self._outputs[number]

    def _judge(self) -> tuple[Verdict, str, int | None]:
        ending, limits = self._ending, self.limits
        if ending is None:
            return Verdict.INFRASTRUCTURE, self._lost, None
        if self._flooded:
            return Verdict.OUTPUT_LIMIT, f"more than {limits.output_bytes} bytes of output", None
        if ending.reason == Reason.CPU or ending.cpu_seconds > limits.cpu_seconds:
            return Verdict.CPU_LIMIT, f"more than {limits.cpu_seconds:g} processor seconds", None
        if ending.reason == Reason.WALL:
            return Verdict.WALL_LIMIT, f"more than {limits.wall_seconds:g} seconds on the clock", None
        if ending.reason == Reason.MEMORY:
            return Verdict.MEMORY, f"more than {limits.memory_bytes} bytes in all processes", None
        if ending.reason == Reason.ASKED:
            return Verdict.OK, "ended by who started it", None
        return self._by_status(ending.status)

    def _by_status(self, status: int) -> tuple[Verdict, str, int | None]:
        code = os.waitstatus_to_exitcode(status)
        if code == -signal.SIGSYS:
            return Verdict.REFUSED, "a system call that no task needs", None
        if code < 0:
            return Verdict.KILLED, f"signal {_signal_name(-code)}", None
        last = self._stderr.text().rstrip().rpartition(b"\n")[2]
        if code and last.startswith(_NO_MEMORY):
            return Verdict.MEMORY, f"no more than {self.limits.memory_bytes} bytes of address space", code
        return (Verdict.FAILED, last.decode(errors="replace")[:200], code) if code else (Verdict.OK, "", 0)


class Conversation:
    """A guest: a running program with two more descriptors (see `contract.Guest`)."""

    def __init__(self, begin: Callable[[tuple[int, ...]], Running], end: Callable[[Running], Outcome]) -> None:
        theirs_requests, self._requests = os.pipe()
        self._answers, theirs_answers = os.pipe()
        os.set_blocking(self._requests, False)
        self._end = end
        self._outcome: Outcome | None = None
        try:
            self._running = begin((theirs_requests, theirs_answers))
        except Broken:
            self._close()
            raise
        finally:
            os.close(theirs_requests)
            os.close(theirs_answers)

    def send(self, data: bytes) -> None:
        """See `contract.Guest`."""
        rest = memoryview(data)
        while rest:
            self._demand()
            if self._running.turn(1.0, self._requests, select.POLLOUT):
                try:
                    rest = rest[os.write(self._requests, rest[:_PIECE]) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError as error:
                    raise GuestGone("the program no longer reads its requests") from error

    def receive(self, num_bytes: int, wall_seconds: float) -> bytes:
        """See `contract.Guest`."""
        deadline = time.monotonic() + wall_seconds
        found = bytearray()
        while len(found) < num_bytes:
            self._demand(over_is_gone=False)
            left = deadline - time.monotonic()
            if left <= 0:
                raise GuestSlow(f"no answer within {wall_seconds:g} seconds")
            if self._running.turn(min(left, 1.0), self._answers, select.POLLIN):
                piece = os.read(self._answers, min(num_bytes - len(found), _PIECE))
                if not piece:
                    self._settle()
                    raise GuestGone("the program ended or closed its answers")
                found += piece
        return bytes(found)

    def end(self) -> Outcome:
        """See `contract.Guest`."""
        if self._outcome is None:
            if not self._running.over:
                self._running.worker.stop_program()
            self._outcome = self._end(self._running)
            self._close()
        return self._outcome

    def _settle(self) -> None:
        """A program that hung up is most likely ending: its own status says more than having been stopped."""
        patience = time.monotonic() + _SETTLE_SECONDS
        while not self._running.over and (left := patience - time.monotonic()) > 0:
            self._running.turn(left)

    def _demand(self, over_is_gone: bool = True) -> None:
        if self._outcome is not None or (over_is_gone and self._running.over):
            raise GuestGone("the program has ended")

    def _close(self) -> None:
        os.close(self._requests)
        os.close(self._answers)


def _input(data: bytes) -> int:
    """A descriptor to read `data` from; a sealed file in memory, so that nobody has to feed a pipe."""
    if not data:
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    descriptor = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return str(number)
