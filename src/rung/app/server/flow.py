"""From the engine's thread into the event loop: what happens to the requests of one client, as it happens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from rung.app.server.forms import End
from rung.app.server.refusals import refusal_of
from rung.engine.lane import Token
from rung.engine.online import Online
from rung.engine.tickets import News
from rung.records.contracts import Request

__all__ = ["Flow"]


class Flow:
    """The requests of one client. Every end of it must pass `leave`, which frees the slots of what still runs."""

    def __init__(self, online: Online, requests: Sequence[Request]) -> None:
        self._online, self._requests = online, requests
        self._loop = asyncio.get_running_loop()
        self._arrived: asyncio.Queue[tuple[int, News]] = asyncio.Queue()
        self._tokens: list[tuple[Token, ...]] = [()] * len(requests)
        self._ends: list[End | None] = [None] * len(requests)

    async def submit(self, seconds: float, stream: bool) -> None:
        """Hand the requests to the engine; what it raises comes through."""
        tell = self._tell
        self._tickets = await asyncio.to_thread(
            lambda: self._online.submit(self._requests, tell, seconds=seconds, stream=stream)
        )

    async def news(self) -> AsyncIterator[tuple[int, News]]:
        """What happens, until all requests have ended.

        Raises:
            Refusal: one of them failed; the others are given up.
        """
        while None in self._ends:
            index, news = await self._arrived.get()
            if news.error is not None:
                raise refusal_of(news.error)
            self._tokens[index] += news.tokens
            if news.completion is not None:
                self._ends[index] = End(self._tokens[index], news.completion)
            yield index, news

    @property
    def ends(self) -> list[End]:
        """The finished answers."""
        return [end for end in self._ends if end is not None]

    async def finish(self) -> list[End]:
        """Wait for all of them, as `news` does."""
        async for _ in self.news():
            pass
        return self.ends

    def leave(self) -> None:
        """Nobody listens any more."""
        self._online.cancel([t for t, end in zip(self._tickets, self._ends, strict=True) if end is None])

    def _tell(self, index: int, news: News) -> None:
        # A loop that is closed has nobody left who would want to know.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._arrived.put_nowait, (index, news))
