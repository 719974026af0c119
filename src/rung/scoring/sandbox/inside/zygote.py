"""The worker's loop: take an order, fork a program for it, watch it, say how it ended.

It imports ahead what solutions ask for most while nobody waits. It holds no test, answer, key or descriptor but its
own socket, so that everything a fork can read is harmless.
"""

from __future__ import annotations

import _socket
import gc
import importlib
import os
import select
import time

from rung.scoring.sandbox.inside import guest, seccomp, wire
from rung.scoring.sandbox.inside.kernel import CLONE, clone
from rung.scoring.sandbox.inside.watch import Watch
from rung.scoring.sandbox.inside.wire import Ending, Order, Plan, Reason

__all__ = ["serve"]

_TICK_MILLISECONDS = 50
_KILL = 9


def serve(control: _socket.socket, plan: Plan) -> None:
    """Until the pool is gone."""
    waiting = list(plan.preimport)
    if plan.namespaces:
        # Every program is the first process of its namespace: the filter is built once, here.
        seccomp.program(own_pid=1, repository=False)
        seccomp.program(own_pid=1, repository=True)
    try:
        while True:
            _import_ahead(control, waiting)
            message = wire.receive(control)
            if message.tag == wire.ORDER:
                _work(control, plan, Order.unpack(message.payload), tuple(message.descriptors))
    except wire.Closed:
        os._exit(0)


def _import_ahead(control: _socket.socket, waiting: list[str]) -> None:
    """One module after another, for as long as no order comes."""
    while waiting and not select.select([control], [], [], 0)[0]:
        try:
            importlib.import_module(waiting.pop(0))
        except ImportError:
            continue
        if not waiting:
            gc.collect()
            gc.freeze()


def _work(control: _socket.socket, plan: Plan, order: Order, descriptors: tuple[int, ...]) -> None:
    told, tell = os.pipe()
    try:
        pid = clone(CLONE.PROCESSES | CLONE.MOUNTS | CLONE.IPC if plan.namespaces else 0)
    except OSError as error:
        for descriptor in (*descriptors, told, tell):
            os.close(descriptor)
        wire.send(control, wire.FAILED, str(error).encode())
        return
    if pid == 0:
        os.close(told)
        guest.become(plan, order, descriptors, tell)
    for descriptor in (*descriptors, tell):
        os.close(descriptor)
    try:
        _accompany(control, plan, order, (pid, told))
    finally:
        os.close(told)


def _accompany(control: _socket.socket, plan: Plan, order: Order, program: tuple[int, int]) -> None:
    pid, told = program
    first = os.read(told, 4096)
    if first != guest.PREPARED:
        os.waitpid(pid, 0)
        wire.send(control, wire.FAILED, b"the program's process: " + (first or b"died while it was set up"))
        return
    wire.send(control, wire.READY)
    reason = _wait(control, pid, order)
    _, status, used = os.wait4(pid, 0)
    if plan.uid >= 0 and not plan.namespaces and os.getuid() == plan.uid:
        _sweep()
    last = os.read(told, 64)
    if not os.WIFSIGNALED(status) and last.isdigit():
        status = int(last) & 0xFFFF
    wire.send(control, wire.ENDED, Ending(reason, status, used.ru_utime + used.ru_stime).pack())


def _wait(control: _socket.socket, pid: int, order: Order) -> int:
    """Till the program is dead; the reason when it was killed from here."""
    ended = os.pidfd_open(pid)
    watch = Watch(pid, order, time.monotonic())
    poller = select.poll()
    poller.register(ended, select.POLLIN)
    poller.register(control, select.POLLIN)
    reason = Reason.NONE
    try:
        while True:
            ready = [number for number, _ in poller.poll(_TICK_MILLISECONDS)]
            if ended in ready:
                return reason
            found = _asked(control) if ready else watch.look()
            if found and not reason:
                reason = found
                os.kill(pid, _KILL)
    finally:
        os.close(ended)


def _asked(control: _socket.socket) -> int:
    return Reason.ASKED if wire.receive(control).tag == wire.KILL else Reason.NONE


def _sweep() -> None:
    """Without a pid namespace: end whatever else runs as this slot's user, which nobody but the program could be."""
    try:
        os.kill(-1, _KILL)
    except ProcessLookupError:
        return
