"""The process that judges: `python -m rung.scoring.apart.serve NAME` answers JSON lines with one of `SERVICES`.

Each call has a limit of processor seconds that the kernel enforces (ITIMER_PROF, whose signal ends the process), so
that neither a busy machine nor a library that catches alarms changes what is found; a memory limit holds for all.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
from typing import Any

__all__ = ["SERVICES", "main"]

SERVICES = ("gym", "mathematics", "proofs")


def main(name: str, memory_bytes: int) -> None:
    """Read requests from standard input until it ends; answers go to what was standard output at the start."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # a library that prints must not write into the answers
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's, who closes the pipe
    service = importlib.import_module(f"rung.scoring.apart.{name}")
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, request["seconds"])
        reply = _answer(service, request["ask"])
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


def _answer(service: Any, ask: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"found": service.answer(ask)}
    except ModuleNotFoundError as error:
        return {"missing": error.name}
    except (MemoryError, RecursionError) as error:
        return {"exhausted": type(error).__name__}
    except Exception as error:  # noqa: BLE001 - a library's failure is told to the caller, who decides
        return {"failed": f"{type(error).__name__}: {error}"[:300]}


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
