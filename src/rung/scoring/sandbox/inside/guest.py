"""The program's process: its own mounts, limits, nothing but its descriptors, the doors shut, then the program.

What goes wrong before the doors are shut is told to the worker and is the sandbox's failure. From then on the worker
believes nothing but what the kernel says.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import fcntl
import math
import os
import resource
import struct

from rung.scoring.sandbox.inside import landlock, program, seccomp
from rung.scoring.sandbox.inside.kernel import Syscalls, call, prctl
from rung.scoring.sandbox.inside.root import DEVICES, JOB_FOLDER, fresh_mounts
from rung.scoring.sandbox.inside.wire import Order, Plan

__all__ = ["PREPARED", "become"]

PREPARED = b"."
_DEATH_SIGNAL, _DUMPABLE, _KILL = 1, 4, 9
_CAPABILITY_VERSION = 0x20080522
_MOST_THREADS, _MOST_DESCRIPTORS, _STACK_BYTES = 64, 256, 64 << 20
# Standard input, output, error, requests, answers; then the way to tell the worker.
_TELL = 5


def become(plan: Plan, order: Order, descriptors: tuple[int, ...], tell: int) -> None:
    """Turn this fork of the worker into the program; never returns."""
    try:
        _shut_doors(plan, order, descriptors, tell)
    except Exception as error:  # noqa: BLE001
        os.write(tell, f"{type(error).__name__}: {error}".encode())
        os._exit(1)
    os.write(_TELL, PREPARED)
    if order.processes > 1:
        _stay_first()
    os.close(_TELL)
    program.run(order.source, order.seed, keeps_talking=len(descriptors) == _TELL)


def _shut_doors(plan: Plan, order: Order, descriptors: tuple[int, ...], tell: int) -> None:
    if plan.namespaces:
        fresh_mounts(order.file_bytes, order.processes > 1)
        os.chdir(JOB_FOLDER)
    else:
        prctl(_DEATH_SIGNAL, _KILL)
    _keep_only(descriptors, tell)
    _limit(order, counts_processes=plan.namespaces or plan.uid >= 0)
    os.environ.clear()
    if order.processes > 1:
        os.environ.update({"PATH": "/usr/bin:/bin", "HOME": JOB_FOLDER, "PYTHONHASHSEED": "0"})
    if plan.hardened:
        call(Syscalls.capset, struct.pack("=Ii", _CAPABILITY_VERSION, 0), bytes(24))
        _fence(plan)
        seccomp.install(seccomp.program(os.getpid(), order.processes > 1))


def _keep_only(descriptors: tuple[int, ...], tell: int) -> None:
    """The given descriptors become 0, 1, 2, ...; every other one is closed."""
    wanted = dict(enumerate(descriptors)) | {_TELL: tell}
    aside = {target: fcntl.fcntl(source, fcntl.F_DUPFD, _TELL + 1) for target, source in wanted.items()}
    for target, source in aside.items():
        os.dup2(source, target)
    os.closerange(len(descriptors), _TELL)
    os.closerange(_TELL + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def _limit(order: Order, counts_processes: bool) -> None:
    # The worker's watch decides on processor time; these seconds stand behind it.
    seconds = math.ceil(order.cpu_seconds) + 1
    # Besides the program: the launcher, the worker, and the first process of the program's own pid namespace.
    others = _MOST_THREADS if order.processes == 1 else order.processes
    limits = [
        (resource.RLIMIT_AS, order.memory_bytes, order.memory_bytes),
        (resource.RLIMIT_CPU, seconds, seconds + 1),
        (resource.RLIMIT_FSIZE, order.file_bytes, order.file_bytes),
        (resource.RLIMIT_NOFILE, _MOST_DESCRIPTORS, _MOST_DESCRIPTORS),
        (resource.RLIMIT_STACK, _STACK_BYTES, _STACK_BYTES),
    ]
    if counts_processes:
        limits.append((resource.RLIMIT_NPROC, others + 3, others + 3))
    for kind, soft, hard in limits:
        highest = resource.getrlimit(kind)[1]
        bound = hard if highest == resource.RLIM_INFINITY else min(hard, highest)
        resource.setrlimit(kind, (min(soft, bound), bound))


def _fence(plan: Plan) -> None:
    """Landlock, where the kernel has it: in namespaces a second fence, without them the only one around files."""
    if not landlock.version():
        return
    rules = landlock.ruleset()
    if plan.namespaces:
        landlock.add(rules, "/", landlock.READABLE)
        landlock.add(rules, JOB_FOLDER)
    else:
        for path in plan.readable:
            landlock.add(rules, path, landlock.READABLE)
        for path in plan.listable:
            landlock.add(rules, path, landlock.LISTABLE)
    for path in DEVICES:
        landlock.add(rules, path, landlock.DEVICE)
    landlock.restrict(rules)
    os.close(rules)


def _stay_first() -> None:
    """The program goes on in a fork; this process, the first of the namespace, which the kernel shields, reaps, tells
    the program's status, and ends everything with it.

    Before there is anybody else: no process may look into this one, or the program could reach the descriptor by which
    the worker is told; and the signal for which Python has a handler is ignored, or the program could end this one.
    """
    prctl(_DUMPABLE, 0)
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
    child = os.fork()
    if not child:
        prctl(_DUMPABLE, 1)
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
        return
    os.closerange(0, _TELL)
    while True:
        pid, status = os.wait()
        if pid == child:
            os.write(_TELL, str(status).encode())
            os._exit(0)
