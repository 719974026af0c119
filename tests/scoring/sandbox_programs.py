"""Programs for the tests of the sandbox: attacks, which print `got out` only if they worked, and honest ones.

PATH, PORT, NAME, PID name a file, a TCP service, an abstract socket and a process outside.
"""

from __future__ import annotations

import os
import socket
import sysconfig
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pydantic

__all__ = ["ATTACKS", "HONEST", "attack", "outside", "processes"]

_FRAME = """
import ctypes, os, socket, sys
_libc = ctypes.CDLL(None, use_errno=True)
def call(*words):
    assert _libc.syscall(*words) >= 0, ctypes.get_errno()
try:
{body}
except BaseException as error:
    print("stopped", repr(error))
else:
    print("got out")
"""


def attack(name: str, outside: str) -> str:
    """The source of attack `name`, with the names of things outside."""
    return outside + _FRAME.format(body=textwrap.indent(ATTACKS[name], "    "))


@contextmanager
def outside() -> Iterator[str]:
    """Things outside to reach for, as lines of source that name them; none is changed afterwards.

    Raises:
        AssertionError: a program wrote the file, or beside it.
    """
    with (
        tempfile.TemporaryDirectory(prefix="rung-outside-") as folder,
        socket.create_server(("127.0.0.1", 0)) as service,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as file,
    ):
        path, where, name = Path(folder) / "open.txt", Path(folder) / "socket", f"rung-{Path(folder).name}"
        path.write_text("outside")
        abstract.bind("\0" + name)
        abstract.listen()
        file.bind(str(where))
        for one in (path, where, Path(folder)):
            one.chmod(0o777)
        yield (
            f"PATH, PORT, NAME, PID, SOCKET = {str(path)!r}, {service.getsockname()[1]}, {name!r}, {os.getpid()}, "
            f"{str(where)!r}\nINSTALLED, PACKAGE = [{sysconfig.get_path('purelib')!r}], {pydantic.__file__!r}\n"
        )
        assert path.read_text() == "outside"
        assert sorted(one.name for one in Path(folder).iterdir()) == ["open.txt", "socket"]


def processes() -> set[str]:
    """The processes that descend from this one."""
    return {one for one in os.listdir("/proc") if one.isdigit() and _descends(int(one))}


def _descends(pid: int) -> bool:
    try:
        while pid > 1:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            if pid == os.getpid():
                return True
    except OSError:
        return False
    return False


_FORKS = """
started = 0
for _ in range(100):
    if os.fork() == 0:
        import time
        time.sleep(30)
        os._exit(0)
    started += 1
"""
_DAEMON = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        import time
        time.sleep(60)
    os._exit(0)
"""
_HOARD = """
for i in range(64):
    with open(f"/tmp/{i}", "wb") as file:
        file.write(bytes(1 << 20))
"""
_DESCRIPTORS = """
found = []
for number in range(3, 256):
    try:
        os.write(number, b"e" * 64)
        found.append(number)
    except OSError:
        pass
assert found
"""
ATTACKS = {
    "tcp": "socket.create_connection(('127.0.0.1', PORT), 2)",
    "tcp, raw call": "call(41, 2, 1, 0)",
    "udp": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
    "abstract socket": "socket.socket(socket.AF_UNIX).connect(chr(0) + NAME)",
    "socket file": "socket.socket(socket.AF_UNIX).connect(SOCKET)",
    "datagram pair to a socket file": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', SOCKET)",
    "stream pair reconnected": "socket.socketpair()[0].connect(SOCKET)",
    "read a file": "open(PATH).read()",
    "read a secret file": "open('/etc/shadow').read()",
    "read the answers of an installed package": "[os.listdir(p) for p in INSTALLED]; open(PACKAGE).read()",
    "read through a link": "os.symlink(PATH, '/tmp/link'); open('/tmp/link').read()",
    "climb out": "open('/tmp/../..' + PATH).read()",
    "hard link": "os.link(PATH, '/tmp/hard')",
    "write a file": "open(PATH, 'a').write('x')",
    "write the library": "open(os.__file__, 'a').write('x')",
    "write the root": "open('/new', 'w').write('x')",
    "remount": "call(165, None, b'/', None, 0x1020, None)",
    "chroot": "os.chroot('/tmp')",
    "device": "os.mknod('/tmp/disk', 0o60600, os.makedev(254, 0)); open('/tmp/disk', 'rb').read(1)",
    "environment": "assert os.environ or any(b'=' in line for line in os.popen('env'))",
    "others in proc": "assert [p for p in os.listdir('/proc') if p.isdigit() and int(p) != os.getpid()]",
    "another's environment": "open(f'/proc/{PID}/environ').read()",
    "signal outside": "os.kill(PID, 0)",
    "signal everyone": "os.kill(-1, 0)",
    "signal the parent": "os.kill(os.getppid() or -1, 9)",
    "signal a group": "os.killpg(PID, 0)",
    "signal by a descriptor": "import signal; signal.pidfd_send_signal(os.pidfd_open(PID), 0)",
    "signal by input": (
        "import fcntl; a, b = socket.socketpair(); fcntl.fcntl(a, fcntl.F_SETOWN, PID); "
        "fcntl.fcntl(a, fcntl.F_SETFL, os.O_ASYNC)"
    ),
    "ptrace": "call(101, 16, PID, 0, 0)",
    "memory of another": "call(310, PID, ctypes.create_string_buffer(16), 1, ctypes.create_string_buffer(16), 1, 0)",
    "limits of another": "import resource; resource.prlimit(PID, resource.RLIMIT_NOFILE, (64, 64))",
    "priority of another": "os.setpriority(os.PRIO_PROCESS, PID, 5)",
    "processors of another": "os.sched_setaffinity(PID, {0})",
    "forks": _FORKS,
    "clone by hand": "call(56, 17, 0, 0, 0, 0)",
    "clone3": "call(435, ctypes.create_string_buffer(88), 88)",
    "daemon": _DAEMON,
    "exec": "os.execv('/bin/sh', ['sh', '-c', 'echo got out'])",
    "two gigabytes": "bytearray(2 << 30)",
    "two gigabytes shared": "import mmap; mmap.mmap(-1, 2 << 30)",
    "a file in memory": "os.memfd_create('x')",
    "a large file": "open('/tmp/large', 'wb').write(bytes(64 << 20))",
    "many files": _HOARD,
    "very many names": "[open(f'/tmp/{i}', 'w').close() for i in range(100_000)]",
    "a user namespace": "call(272, 0x10000000)",
    "a user namespace by clone": "call(56, 0x10000000 | 17, 0, 0, 0, 0)",
    "another's namespace": "call(308, 0, 0)",
    "io_uring": "call(425, 8, ctypes.create_string_buffer(256))",
    "keys": "call(250, 0, -3, 1)",
    "a key": "call(248, b'user', b'x', b'y', 1, -4)",
    "shared memory": "call(29, 0, 4096, 0o1666)",
    "semaphores": "call(64, 0, 1, 0o1666)",
    "page faults": "call(323, 0)",
    "performance counters": "call(298, ctypes.create_string_buffer(128), 0, -1, -1, 0)",
    "bpf": "call(321, 0, ctypes.create_string_buffer(128), 128)",
    "kernel modules": "call(175, 0, 0, b'')",
    "the 32-bit entry": (
        "import mmap; page = mmap.mmap(-1, 4096, prot=7); "
        "page.write(bytes([0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xc3])); "
        "address = ctypes.addressof(ctypes.c_char.from_buffer(page)); ctypes.CFUNCTYPE(ctypes.c_int)(address)()"
    ),
    "the x32 entry": "call(0x40000000 + 39)",
    "capabilities": "call(126, ctypes.create_string_buffer(8), ctypes.create_string_buffer(24))",
    "become root": "os.setuid(0) or os.setresuid(0, 0, 0)",
    "raise a limit": "import resource; resource.setrlimit(resource.RLIMIT_CPU, (10**6, 10**6))",
    "take the filter off": "call(157, 22, 0, 0, 0, 0)",
    "survive the worker": "call(157, 1, 0, 0, 0, 0)",
    "a descriptor left open": _DESCRIPTORS,
    "type into a terminal": "import fcntl; fcntl.ioctl(0, 0x5412, b'x')",
}
HONEST = {
    "threads": (
        "import threading\nfound = []\n"
        "threads = [threading.Thread(target=found.append, args=(i,)) for i in range(20)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\nprint(sum(found))",
        b"190\n",
    ),
    "asyncio": ("import asyncio\nasync def f(): await asyncio.sleep(0.01); return 7\nprint(asyncio.run(f()))", b"7\n"),
    "deep recursion": (
        "import sys\nsys.setrecursionlimit(10**6)\ndef f(n): return n and 1 + f(n - 1)\nprint(f(50_000))",
        b"50000\n",
    ),
    "a megabyte": ("print('x' * 999_999)", b"x" * 999_999 + b"\n"),
    "socketpair": ("import socket\na, b = socket.socketpair()\na.send(b'hello')\nprint(b.recv(9))", b"b'hello'\n"),
    "input": ("print(sum(map(int, input().split())), end='')", b"6"),
    "main": (
        "if __name__ == '__main__':\n    import dataclasses\n    print(dataclasses.dataclass(type('A', (), {}))())",
        None,
    ),
    "at the end": ("import atexit\natexit.register(print, 'bye')\nprint('hi')", b"hi\nbye\n"),
    "set order": ("print(list({'a', 'b', 'c', 'd'}) == list({'a', 'b', 'c', 'd'}))", b"True\n"),
    "subprocess is refused politely": (
        "import subprocess\ntry: subprocess.run(['true'])\nexcept PermissionError: print('no')",
        b"no\n",
    ),
}
