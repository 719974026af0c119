"""`rung run` of a recipe that trains on several ranks of this machine: starts them as `torchrun` would.

The ranks run under torch's elastic agent, in a session of its own: a stop request reaches the first rank once, whether
it came from a terminal or another process, and ends the job at the next safe point.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from rung.base.errors import Interrupted, WorkerLost

__all__ = ["launch"]

_THREADS = "OMP_NUM_THREADS"


def launch(num_ranks: int, arguments: Sequence[str]) -> int:
    """Run `rung` with these arguments in so many ranks; returns the first rank's exit code.

    Two stop requests end everything at once.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment = {_THREADS: str(max(1, cores // num_ranks)), **os.environ}
    command = [sys.executable, "-m", "rung.app.launch", str(num_ranks), *arguments]
    agent = subprocess.Popen(command, env=environment, start_new_session=True)
    asked = 0

    def forward(number: int, frame: FrameType | None) -> None:
        """Once to the agent, which tells its ranks; then to all."""
        nonlocal asked
        asked += 1
        if asked == 1:
            agent.send_signal(signal.SIGTERM)
        else:
            os.killpg(agent.pid, signal.SIGKILL)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return agent.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _agent(num_ranks: int, arguments: Sequence[str]) -> int:
    """In the agent's process: the ranks, and the exit code of the first where it ended by itself."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_ranks,
        run_id="rung",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "rung", *arguments)
    except SignalException:
        return Interrupted.exit_code
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        return codes[0] if codes.get(0, -1) > 0 else WorkerLost.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(_agent(int(sys.argv[1]), sys.argv[2:]))
