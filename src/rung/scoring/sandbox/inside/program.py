"""Run source as a program, the way `python program.py` would, in this process, and leave."""

from __future__ import annotations

import atexit
import io
import os
import random
import sys

__all__ = ["run"]

_NAME = "program.py"


def run(source: bytes, seed: int, keeps_talking: bool) -> None:
    """Never returns. With `keeps_talking`, the globals `_requests` and `_answers` are descriptors 3 and 4."""
    _reseed(seed)
    _open_streams()
    module = type(sys)("__main__")
    sys.modules["__main__"] = module
    if keeps_talking:
        module.__dict__.update(_requests=3, _answers=4)
    os._exit(_leave(_execute(source, module.__dict__)))


def _execute(source: bytes, names: dict[str, object]) -> int:
    try:
        exec(compile(source, _NAME, "exec", dont_inherit=True), names)
    except SystemExit as ending:
        return _asked_for(ending.code)
    except BaseException as error:  # noqa: BLE001
        if isinstance(error, MemoryError):
            names.clear()
        trace = error.__traceback__ and error.__traceback__.tb_next
        sys.__excepthook__(type(error), error.with_traceback(trace), trace)
        return 1
    return 0


def _asked_for(code: object) -> int:
    if code is None or isinstance(code, int):
        return int(code or 0) & 0xFF
    print(code, file=sys.stderr)  # noqa: T201
    return 1


def _leave(code: int) -> int:
    """Threads, functions to be called at the end, buffers: as the interpreter does when a program ends."""
    threading = sys.modules.get("threading")
    try:
        if threading is not None:
            threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001
        sys.__excepthook__(type(error), error, error.__traceback__)
        return code or 120
    return code


def _reseed(seed: int) -> None:
    """The same program draws the same numbers whenever and wherever it runs; two programs draw different ones."""
    random.seed(seed)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed(seed % (1 << 32))


def _open_streams() -> None:
    sys.stdin = _stream(0, "r", "surrogateescape")
    sys.stdout = _stream(1, "w", "surrogateescape")
    sys.stderr = _stream(2, "w", "backslashreplace", line_buffering=True)
    vars(sys).update(__stdin__=sys.stdin, __stdout__=sys.stdout, __stderr__=sys.stderr)


def _stream(descriptor: int, mode: str, errors: str, line_buffering: bool = False) -> io.TextIOWrapper:
    raw = io.FileIO(descriptor, mode, closefd=False)
    buffered: io.BufferedReader | io.BufferedWriter = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
    return io.TextIOWrapper(buffered, "utf-8", errors, line_buffering=line_buffering)
