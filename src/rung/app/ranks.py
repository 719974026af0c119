"""The processes that `torchrun` started: the first runs the recipe, the others follow it stage by stage."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from rung.base.errors import WorkerLost
from rung.pipeline.ranks import Joint, follow_stage

__all__ = ["Ranks"]

_LOOK_SECONDS = 0.1


class Ranks:
    """One of them. Each piece of joint work is a job of its own, of as many ranks as it asks for, so a ring of one size
    may follow one of another."""

    def __init__(self) -> None:
        self._store, self.rank, self.num_ranks = next(rendezvous("env://"))
        self._number = 0

    @contextlib.contextmanager
    def joint(self, work: Joint) -> Iterator[None]:
        """Tell the others, and work together with them; see `rung.pipeline.ranks.Together`."""
        self._number += 1
        self._store.set(str(self._number), work.model_dump_json())
        with self._job(work):
            yield

    def dismiss(self) -> None:
        """There is no more joint work."""
        self._number += 1
        self._store.set(str(self._number), "end")

    def follow(self) -> None:
        """Do what the first rank says until it has no more. Whether to stop is for the first rank to say.

        Raises:
            WorkerLost: the first rank is gone.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        while (text := self._next()) != "end":
            work = Joint.model_validate_json(text)
            if self.rank < work.num_ranks:
                with self._job(work):
                    follow_stage(work)

    def _next(self) -> str:
        self._number += 1
        try:
            while not self._store.check([str(self._number)]):
                time.sleep(_LOOK_SECONDS)
            return str(self._store.get(str(self._number)).decode())
        except dist.DistError as error:
            raise WorkerLost("the first rank is gone", place=f"rank {self.rank}") from error

    @contextlib.contextmanager
    def _job(self, work: Joint) -> Iterator[None]:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=dist.PrefixStore(f"job {self._number}", self._store),  # type: ignore[attr-defined]
            rank=self.rank,
            world_size=work.num_ranks,
            timeout=timedelta(seconds=work.timeout_seconds),
        )
        try:
            yield
        finally:
            dist.destroy_process_group()
