"""Messages between the pool and one worker: a tag, a length, a payload, and descriptors on the side."""

from __future__ import annotations

import _socket
import marshal
import struct

__all__ = [
    "ENDED", "FAILED", "KILL", "ORDER", "READY", "STARTED", "Closed", "Ending", "Message", "Order", "Plan", "Reason",
    "receive", "send",
]  # fmt: skip

# To the worker.
ORDER, KILL = b"o", b"k"
# From the worker: it stands; the program is about to begin; it could not; how it ended.
STARTED, READY, FAILED, ENDED = b"s", b"r", b"f", b"e"
_HEADER = struct.Struct("!cI")
_ENDING = struct.Struct("!Bid")
_MOST_DESCRIPTORS = 8


class Closed(Exception):
    """The other side is gone."""


class Reason:
    """Why the worker ended a program; 0 when it did not."""

    NONE, CPU, WALL, MEMORY, ASKED = range(5)


class Plan:
    """What a worker is built like.

    Args:
        namespaces: make them, and a private root; else only what needs none.
        hardened: capabilities, Landlock, seccomp; False only for the rung whose name says unsafe.
        uid: the slot's user and group, -1 to stay who started it.
        readable: folders and files of the interpreter and the system that programs may read.
        listable: without namespaces, folders whose names they may see.
        hidden: folders inside those that they may not (installed packages may contain the answers).
        packages: (name, path) of the packages that programs may import all the same.
        preimport: modules that an idle worker imports ahead.
    """

    __slots__ = ("hardened", "hidden", "listable", "namespaces", "packages", "preimport", "readable", "uid")

    def __init__(
        self,
        namespaces: bool,
        hardened: bool,
        uid: int,
        *,
        readable: tuple[str, ...],
        listable: tuple[str, ...],
        hidden: tuple[str, ...],
        packages: tuple[tuple[str, str], ...],
        preimport: tuple[str, ...],
    ) -> None:
        self.namespaces, self.hardened, self.uid = namespaces, hardened, uid
        self.readable, self.listable, self.hidden = readable, listable, hidden
        self.packages, self.preimport = packages, preimport

    def pack(self) -> bytes:
        """As bytes for the worker, which runs the same interpreter."""
        return marshal.dumps({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def unpack(cls, data: bytes) -> Plan:
        """From `pack`."""
        return cls(**marshal.loads(data))


class Order:
    """One program and its limits (see `contract.Limits`); `seed` is what its random numbers begin with."""

    __slots__ = ("cpu_seconds", "file_bytes", "memory_bytes", "processes", "seed", "source", "wall_seconds")

    def __init__(
        self,
        source: bytes,
        seed: int,
        *,
        cpu_seconds: float,
        wall_seconds: float,
        memory_bytes: int,
        file_bytes: int,
        processes: int,
    ) -> None:
        self.source, self.seed = source, seed
        self.cpu_seconds, self.wall_seconds = cpu_seconds, wall_seconds
        self.memory_bytes, self.file_bytes, self.processes = memory_bytes, file_bytes, processes

    def pack(self) -> bytes:
        """As bytes for the worker."""
        return marshal.dumps({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def unpack(cls, data: bytes) -> Order:
        """From `pack`."""
        return cls(**marshal.loads(data))


class Ending:
    """How a program ended: why the worker ended it, the status of wait(2), processor seconds.

    Read by the pool with a fixed layout: what a worker sends is never unmarshalled.
    """

    __slots__ = ("cpu_seconds", "reason", "status")

    def __init__(self, reason: int, status: int, cpu_seconds: float) -> None:
        self.reason, self.status, self.cpu_seconds = reason, status, cpu_seconds

    def pack(self) -> bytes:
        """As bytes for the pool."""
        return _ENDING.pack(self.reason, self.status, self.cpu_seconds)

    @classmethod
    def unpack(cls, data: bytes) -> Ending:
        """From `pack`. Raises struct.error."""
        return cls(*_ENDING.unpack(data))


class Message:
    """One message as it came."""

    __slots__ = ("descriptors", "payload", "tag")

    def __init__(self, tag: bytes, payload: bytes, descriptors: list[int]) -> None:
        self.tag, self.payload, self.descriptors = tag, payload, descriptors


def send(to: _socket.socket, tag: bytes, payload: bytes = b"", descriptors: tuple[int, ...] = ()) -> None:
    """Send one message. Raises Closed."""
    rights = struct.pack(f"{len(descriptors)}i", *descriptors)
    side = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)] if descriptors else []
    try:
        to.sendmsg([_HEADER.pack(tag, len(payload))], side)
        to.sendall(payload)
    except (BrokenPipeError, ConnectionResetError) as error:
        raise Closed from error


def receive(source: _socket.socket) -> Message:
    """Wait for one message. Raises Closed."""
    try:
        header, side, _, _ = source.recvmsg(_HEADER.size, _socket.CMSG_SPACE(4 * _MOST_DESCRIPTORS))
        descriptors = [number for _, _, rights in side for (number,) in struct.iter_unpack("i", rights)]
        tag, length = _HEADER.unpack(header + _exactly(source, _HEADER.size - len(header)))
        return Message(tag, _exactly(source, length), descriptors)
    except ConnectionResetError as error:
        raise Closed from error


def _exactly(source: _socket.socket, length: int) -> bytes:
    pieces = []
    while length:
        piece = source.recv(min(length, 1 << 20))
        if not piece:
            raise Closed
        pieces.append(piece)
        length -= len(piece)
    return b"".join(pieces)
