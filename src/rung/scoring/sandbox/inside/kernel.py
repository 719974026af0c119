"""The system calls that Python's library does not offer, through ctypes; each raises OSError with its own name."""

from __future__ import annotations

import ctypes
import os

__all__ = ["CLONE", "Syscalls", "bind_at", "call", "clone", "library", "mount", "prctl", "unmount"]

library = ctypes.CDLL(None, use_errno=True)
library.syscall.restype = ctypes.c_long
_HERE = -100
_RECURSIVE, _CLONE_TREE = 0x8000, 1


class Syscalls:
    """Numbers of the calls made here; from 424 on they are the same on every kind of machine."""

    clone = 56
    capset = 126
    pivot_root = 155
    seccomp = 317
    open_tree = 428
    move_mount = 429
    mount_setattr = 442
    landlock_create_ruleset = 444
    landlock_add_rule = 445
    landlock_restrict_self = 446


class CLONE:
    """Flags of clone and unshare."""

    MOUNTS = 0x00020000
    CGROUP = 0x02000000
    NAMES = 0x04000000
    IPC = 0x08000000
    USERS = 0x10000000
    PROCESSES = 0x20000000
    NETWORK = 0x40000000


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def call(number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """System call `number`; integers go as machine words, bytes as pointers."""
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _checked(library.syscall(ctypes.c_long(number), *words), f"system call {number}")


def clone(flags: int) -> int:
    """Fork into new namespaces: 0 in the child. Only for a process with one thread."""
    ctypes.pythonapi.PyOS_BeforeFork()
    # SIGCHLD, so that the parent can wait for the child as for any other.
    child = int(library.syscall(ctypes.c_long(Syscalls.clone), ctypes.c_long(flags | 17), *[ctypes.c_long(0)] * 4))
    if child == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0
    number = ctypes.get_errno()
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    ctypes.set_errno(number)
    return _checked(child, "clone")


def prctl(option: int, value: int, *rest: int) -> int:
    """prctl(2)."""
    words = [ctypes.c_ulong(word) for word in (value, *rest, 0, 0, 0)]
    return _checked(library.prctl(option, *words[:4]), f"prctl {option}")


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    result = library.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode() or None
    )
    _checked(result, f"mount {kind or source} on {target}")


def unmount(target: str) -> None:
    """Take a mount away, now from the tree and later from whoever still uses it."""
    _checked(library.umount2(target.encode(), 2), f"unmount {target}")


def bind_at(source: str) -> int:
    """A descriptor of a copy of the mount tree at `source`, for `Syscalls.move_mount`."""
    return call(Syscalls.open_tree, _HERE, source.encode(), _CLONE_TREE | _RECURSIVE | os.O_CLOEXEC)
