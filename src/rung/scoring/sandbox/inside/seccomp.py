"""The filter of system calls, as a BPF program that is put together here and loaded by the process it is for.

Calls outside the list do not exist (ENOSYS); some fail with EPERM; a few that no task needs end the process at once,
as does a call by the 32-bit or x32 entry. Numbers of processes in arguments are compared with the own number, since
without a pid namespace `prlimit` and `kill` would reach other processes of the same user.
"""

from __future__ import annotations

import ctypes
import errno
import struct

from rung.scoring.sandbox.inside.kernel import Syscalls, call
from rung.scoring.sandbox.inside.numbers import ALLOWED, DENIED, FATAL, NUMBERS, REPOSITORY

__all__ = ["install", "program"]

_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _AND, _EQUAL, _AT_LEAST, _JUMP, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x05, 0x06
_MACHINE_X86_64, _X32 = 0xC000003E, 0x40000000
_NEW_NAMESPACES, _THREAD = 0x7E020080, 0x00010000
_WHOLE = 0xFFFFFFFF
_UNIX, _STREAM, _PACKETS = 1, 1, 5
_FILE_COMMANDS = (0, 1, 2, 3, 4, 5, 6, 7, 9, 36, 37, 38, 1030, 1031, 1032, 1033, 1034)
# FIONBIO, FIOCLEX, FIONCLEX, FIONREAD, TCGETS, TIOCGWINSZ
_DEVICE_COMMANDS = (0x5421, 0x5451, 0x5450, 0x541B, 0x5401, 0x5413)
# PR_GET_DUMPABLE, PR_SET_DUMPABLE, PR_SET_NAME, PR_GET_NAME
_PROCESS_COMMANDS = (3, 4, 15, 16)
_built: dict[tuple[int, bool], bytes] = {}


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _only(argument: int, mask: int, values: tuple[int, ...]) -> list[bytes]:
    """Go on when the masked low word of an argument is one of `values`, else fail with EPERM."""
    found = [_step(_EQUAL, value, len(values) - i, 0) for i, value in enumerate(values)]
    load = [_step(_LOAD, 16 + 8 * argument), _step(_AND, mask)]
    return [*load, *found, _step(_RETURN, _ERROR | errno.EPERM)]


def _if(*checks: list[bytes]) -> list[bytes]:
    """Allow a call whose arguments pass every check."""
    return [*(step for check in checks for step in check), _step(_RETURN, _ALLOW)]


def _checks(own_pid: int, repository: bool) -> dict[str, list[bytes]]:
    thread = (_NEW_NAMESPACES | _THREAD, (_THREAD,))
    new = _only(0, *((_NEW_NAMESPACES, (0,)) if repository else thread))
    pair = _only(0, _WHOLE, (_UNIX,))
    # A pair of datagram sockets could still be pointed at somebody else's socket file; these two kinds cannot.
    connected = _only(1, 0xF, (_STREAM, _PACKETS))
    own = _only(0, _WHOLE, (own_pid,))
    found = {
        "clone": _if(new),
        "fcntl": _if(_only(1, _WHOLE, _FILE_COMMANDS)),
        "ioctl": _if(_only(1, _WHOLE, _DEVICE_COMMANDS)),
        "prctl": _if(_only(0, _WHOLE, _PROCESS_COMMANDS)),
        "socketpair": _if(pair, connected),
        "prlimit64": _if(_only(0, _WHOLE, (0, own_pid))),
    }
    return found | ({"socket": _if(pair, connected)} if repository else {"kill": _if(own), "tgkill": _if(own)})


def _answers(own_pid: int, repository: bool) -> dict[int, list[bytes]]:
    """The steps for each number that is spoken about; each list returns on every path."""
    allowed = (*ALLOWED, *((*REPOSITORY, "kill", "tgkill") if repository else ()))
    found = {name: [_step(_RETURN, _ERROR | errno.EPERM)] for name in DENIED}
    found |= {name: [_step(_RETURN, _KILL)] for name in FATAL}
    found |= {name: [_step(_RETURN, _ALLOW)] for name in allowed}
    return {NUMBERS[name]: steps for name, steps in (found | _checks(own_pid, repository)).items()}


def _ranges(answers: dict[int, list[bytes]]) -> list[tuple[int, list[bytes]]]:
    """(first number, steps) of each run of numbers with the same steps, up to the end of all numbers."""
    unknown = [_step(_RETURN, _ERROR | errno.ENOSYS)]
    found: list[tuple[int, list[bytes]]] = []
    for number in range(max(answers) + 2):
        steps = answers.get(number, unknown)
        if not found or found[-1][1] != steps:
            found.append((number, steps))
    return found


def _tree(ranges: list[tuple[int, list[bytes]]]) -> list[bytes]:
    """Find the range by halving: the kernel runs the filter for every number once when it is loaded."""
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    low, high = _tree(ranges[:middle]), _tree(ranges[middle:])
    return [_step(_AT_LEAST, ranges[middle][0], 0, 1), _step(_JUMP, len(low)), *low, *high]


def program(own_pid: int, repository: bool) -> bytes:
    """The filter for the process `own_pid`; with `repository`, it may start programs and open unix sockets."""
    if (own_pid, repository) not in _built:
        entry = [
            _step(_LOAD, 4),
            _step(_EQUAL, _MACHINE_X86_64, 1, 0),
            _step(_RETURN, _KILL),
            _step(_LOAD, 0),
            _step(_AT_LEAST, _X32, 0, 1),
            _step(_RETURN, _KILL),
        ]
        _built[own_pid, repository] = b"".join([*entry, *_tree(_ranges(_answers(own_pid, repository)))])
    return _built[own_pid, repository]


def install(code: bytes) -> None:
    """Load the filter for this process and every thread of it. Needs no_new_privs."""
    steps = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("=H6xQ", len(code) // 8, ctypes.addressof(steps))
    call(Syscalls.seccomp, 1, 0, head)
