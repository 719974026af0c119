"""Compiles the kernels once for this machine and keeps the library in the cache."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
from pathlib import Path

from rung.base.errors import ModelError
from rung.base.fingerprint import content_hash
from rung.models.cache import Cache

__all__ = ["built", "processor"]

_HERE = Path(__file__).parent
_SOURCES = ("attention.cpp", "layers.cpp", "logits.cpp", "product.cpp")
_HEADERS = ("vector.h",)
# no -ffast-math: it would let a compiler drop infinities and reorder sums from version to version
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared", "-fopenmp", "-fno-math-errno", "-fno-trapping-math")
_SECONDS = 300
_NAME = "kernels.so"


def built(cache: Cache) -> ctypes.CDLL:
    """The library, compiled unless these sources were already, by this compiler, on this kind of processor.

    Raises:
        ModelError: there is no compiler here, or it or the library fails; says why.
        StorageError: the cache cannot be written.
    """
    if platform.system() != "Linux":
        raise ModelError("the kernels are built on Linux alone")
    compiler = _compiler()
    texts = [(_HERE / name).read_text(encoding="utf-8") for name in (*_SOURCES, *_HEADERS)]
    key = content_hash([*texts, list(_FLAGS), _version(compiler), processor()])

    def fill(folder: Path) -> None:
        """Compile into `folder`."""
        _ran([compiler, *_FLAGS, *(str(_HERE / name) for name in _SOURCES), "-o", str(folder / _NAME)])

    folder = cache.folder("native", key, fill)
    try:
        return ctypes.CDLL(str(folder / _NAME))
    except OSError as error:
        raise ModelError(f"the compiled kernels do not load: {error}", place=str(folder)) from error


def _compiler() -> str:
    for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++"):
        if name and (found := shutil.which(name)):
            return found
    raise ModelError("no C++ compiler", hint="install g++ (Debian: apt install g++) for faster generation")


def _version(compiler: str) -> str:
    return _ran([compiler, "--version"]).splitlines()[0]


def _ran(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ModelError(f"the C++ compiler did not run: {error}", place=command[0]) from error
    if done.returncode:
        raise ModelError(f"the C++ compiler failed: {done.stderr.strip()[:400]}", place=command[0])
    return done.stdout


def processor() -> str:
    """This machine's kind of processor, as `-march=native` sees it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    wanted = ("vendor_id", "cpu family", "model", "flags", "Features", "CPU part")
    return "; ".join(sorted({line for line in lines if line.split(":")[0].strip() in wanted}))
