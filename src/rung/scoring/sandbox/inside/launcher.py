"""From a fresh interpreter to a worker behind closed doors; the order of the steps is the point of this file.

As root: private root while still real root, then the slot's user, then the user namespace and the others (so that
limits on processes count, which they do not for user 0), then id maps, then a fork into the pid namespace, then
its own proc while the old one can still be seen. Otherwise
the user namespace comes first and gives the right to the rest.
"""

from __future__ import annotations

import _socket
import os
import resource
import sys

from rung.scoring.sandbox.inside import wire
from rung.scoring.sandbox.inside.kernel import CLONE, library, prctl
from rung.scoring.sandbox.inside.root import PACKAGES, build, mount_processes
from rung.scoring.sandbox.inside.wire import Plan
from rung.scoring.sandbox.inside.zygote import serve

__all__ = ["main"]

_DUMPABLE, _DEATH_SIGNAL, _NO_NEW_PRIVILEGES, _DROP_BOUND = 4, 1, 38, 24
_KILL, _LAST_CAPABILITY = 9, 63
_REST = CLONE.USERS | CLONE.MOUNTS | CLONE.PROCESSES | CLONE.NETWORK | CLONE.IPC | CLONE.NAMES | CLONE.CGROUP


def main(descriptor: int) -> None:
    """Take the plan from the socket `descriptor`, become the worker, serve till the pool is gone."""
    control = _socket.socket(fileno=descriptor)
    try:
        plan = Plan.unpack(wire.receive(control).payload)
        _become(plan)
        _forget(plan)
        wire.send(control, wire.STARTED)
    except wire.Closed:
        return
    except Exception as error:  # noqa: BLE001
        wire.send(control, wire.FAILED, f"{type(error).__name__}: {error}".encode())
        return
    serve(control, plan)


def _become(plan: Plan) -> None:
    if plan.namespaces:
        _into_namespaces(plan)
    elif plan.uid >= 0:
        _take_user(plan.uid)
    if plan.hardened:
        _give_up_privileges()


def _into_namespaces(plan: Plan) -> None:
    if plan.uid >= 0:
        _unshare(CLONE.MOUNTS)
        build(plan)
        _take_user(plan.uid)
    _unshare_users()
    if plan.uid < 0:
        build(plan)
    child = os.fork()
    if child:
        os.closerange(0, 256)
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    prctl(_DEATH_SIGNAL, _KILL)
    mount_processes()


def _unshare(flags: int) -> None:
    if library.unshare(flags) < 0:
        raise OSError(f"unshare {flags:#x} was denied")


def _take_user(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    # The change of user closed /proc/self, where the id maps are written.
    prctl(_DUMPABLE, 1)


def _unshare_users() -> None:
    uid, gid = os.getuid(), os.getgid()
    _unshare(_REST)
    for name, line in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)


def _give_up_privileges() -> None:
    """For every program to come; what the worker still needs to make namespaces each program gives up itself."""
    for capability in range(_LAST_CAPABILITY + 1):
        if library.prctl(_DROP_BOUND, capability, 0, 0, 0) < 0:
            break
    prctl(_NO_NEW_PRIVILEGES, 1)
    for kind in (resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE):
        resource.setrlimit(kind, (0, 0))


def _forget(plan: Plan) -> None:
    """Of what it was started with, a program sees nothing: no arguments, no way to rung's source."""
    sys.argv[:] = ["program.py"]
    del sys.path[0]
    sys.path += [PACKAGES] if plan.namespaces else sorted({os.path.dirname(path) for _, path in plan.packages})
    os.chdir("/")
