"""The private root of a worker: an empty file system with the interpreter and the system's libraries, read-only.

Made as whoever started the worker (real root can reach an interpreter below a closed home), before the change to the
slot's user. The old root is taken away, so what is not listed here does not exist.
"""

from __future__ import annotations

import os
import struct

from rung.scoring.sandbox.inside.kernel import Syscalls, bind_at, call, mount, unmount
from rung.scoring.sandbox.inside.wire import Plan

__all__ = ["DEVICES", "JOB_FOLDER", "PACKAGES", "build", "fresh_mounts", "mount_processes"]

JOB_FOLDER, PACKAGES = "/tmp", "/packages"
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_HERE = -100
_NO_SUID, _NO_DEVICES, _NO_EXEC, _READ_ONLY = 2, 4, 8, 1
_RECURSIVE, _PRIVATE = 0x4000, 0x40000
_EMPTY_PATH, _AT_RECURSIVE = 0x1000, 0x8000
_MOST_FILES = 4096


def build(plan: Plan) -> None:
    """Make it and step into it. Needs a mount namespace of its own, and the rights in it."""
    mount("none", "/", "", _RECURSIVE | _PRIVATE)
    sources = _sources(plan)
    trees = [(bind_at(source), target, os.path.isdir(source)) for source, target in sources]
    links = [(path, os.readlink(path)) for path in plan.readable if os.path.islink(path)]
    devices = [(bind_at(path), path) for path in DEVICES]
    processes = bind_at("/proc")
    mount("tmpfs", JOB_FOLDER, "tmpfs", _NO_SUID | _NO_DEVICES, "mode=755,size=1m")
    os.chdir(JOB_FOLDER)
    for tree, target, is_folder in trees:
        _attach(tree, target, is_folder, _READ_ONLY | _NO_SUID | _NO_DEVICES)
    for device, path in devices:
        _attach(device, path, False, _NO_SUID | _NO_EXEC)
    # A new proc may be mounted only where an old one can be seen.
    _attach(processes, "/proc", True, 0)
    _finish(plan, links)


def _sources(plan: Plan) -> list[tuple[str, str]]:
    """(where it is, where it goes); a link is made again as a link, what lies in something listed comes with it."""
    real = [path for path in plan.readable if os.path.exists(path) and not os.path.islink(path)]
    outer = [p for p in real if not any(p != other and p.startswith(other + "/") for other in real)]
    packages = [(path, f"{PACKAGES}/{name}") for name, path in plan.packages]
    return [(path, path) for path in outer] + packages


def _attach(tree: int, target: str, is_folder: bool, attributes: int) -> None:
    place = "." + target
    os.makedirs(place if is_folder else os.path.dirname(place), 0o755, exist_ok=True)
    if not is_folder:
        os.close(os.open(place, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666))
    call(Syscalls.move_mount, tree, b"", _HERE, place.encode(), 4)
    if attributes:
        wanted = struct.pack("=QQQQ", attributes, 0, 0, 0)
        call(Syscalls.mount_setattr, tree, b"", _EMPTY_PATH | _AT_RECURSIVE, wanted, len(wanted))
    os.close(tree)


def _finish(plan: Plan, links: list[tuple[str, str]]) -> None:
    for path, target in links:
        if not os.path.lexists("." + path):
            os.makedirs(os.path.dirname("." + path), 0o755, exist_ok=True)
            os.symlink(target, "." + path)
    for folder in ("." + JOB_FOLDER, "." + PACKAGES):
        os.makedirs(folder, 0o755, exist_ok=True)
    os.symlink(JOB_FOLDER, "./dev/shm")
    for hidden in plan.hidden:
        if os.path.isdir("." + hidden):
            mount("tmpfs", "." + hidden, "tmpfs", _READ_ONLY | _NO_SUID | _NO_DEVICES, "size=4k,mode=755")
    call(Syscalls.pivot_root, b".", b".")
    unmount(".")
    os.chdir("/")
    call(Syscalls.mount_setattr, _HERE, b"/", 0, struct.pack("=QQQQ", _READ_ONLY, 0, 0, 0), 32)


def fresh_mounts(file_bytes: int, may_start_programs: bool) -> None:
    """A program's own view of processes, and its own folder, the only one it may write."""
    mount_processes("subset=pid")
    flags = _NO_SUID | _NO_DEVICES | (0 if may_start_programs else _NO_EXEC)
    mount("tmpfs", JOB_FOLDER, "tmpfs", flags, f"mode=700,size={file_bytes},nr_inodes={_MOST_FILES}")


def mount_processes(options: str = "") -> None:
    """A proc of the pid namespace that this process is in, over the one that was there."""
    mount("proc", "/proc", "proc", _READ_ONLY | _NO_SUID | _NO_DEVICES | _NO_EXEC, options)
