"""Landlock: which files a program may touch, no TCP at all, no signals or abstract sockets to the outside.

Linux' Landlock (M. Salaün, kernel documentation userspace-api/landlock). Only rights that the running kernel knows
are asked for; `version` says which.
"""

from __future__ import annotations

import contextlib
import os
import struct

from rung.scoring.sandbox.inside.kernel import Syscalls, call, library

__all__ = ["DEVICE", "LISTABLE", "READABLE", "add", "restrict", "ruleset", "version"]

_EXECUTE, _WRITE, _READ, _LIST = 1, 2, 4, 8
READABLE = _EXECUTE | _READ | _LIST
LISTABLE = _LIST
# Nothing is executed from a device; truncation comes with opening one to write.
DEVICE = _WRITE | _READ | 1 << 14
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
# What may stand in a rule about a file that is no folder: execute, write, read, truncate, device control.
_OF_A_FILE = _EXECUTE | _WRITE | _READ | 1 << 14 | 1 << 15
_TCP, _SCOPES = 3, 3


def version() -> int:
    """Of the running kernel's Landlock; 0 when it has none."""
    return max(0, int(library.syscall(Syscalls.landlock_create_ruleset, None, 0, 1)))


def _all_file_rights() -> int:
    known = version()
    return max(rights for since, rights in _FILE_RIGHTS.items() if since <= known)


def ruleset() -> int:
    """A descriptor of rules that allow nothing yet."""
    known = version()
    attributes = struct.pack("=QQQ", _all_file_rights(), _TCP if known >= 4 else 0, _SCOPES if known >= 6 else 0)
    size = 24 if known >= 6 else 16 if known >= 4 else 8
    return call(Syscalls.landlock_create_ruleset, attributes, size, 0)


def add(rules: int, path: str, rights: int = -1) -> None:
    """Allow `rights` (all of them by default) on `path` and below; a path that is not there is left out."""
    with contextlib.suppress(FileNotFoundError, PermissionError):
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            of_a_file = -1 if os.path.isdir(path) else _OF_A_FILE
            allowed = rights & _all_file_rights() & of_a_file
            call(Syscalls.landlock_add_rule, rules, 1, struct.pack("=Qi", allowed, descriptor), 0)
        finally:
            os.close(descriptor)


def restrict(rules: int) -> None:
    """From now on, this process and its children keep to the rules. Needs no_new_privs."""
    call(Syscalls.landlock_restrict_self, rules, 0)
