"""A provider that fails twice, fails for ever, answers garbage, answers slowly, and one that charges: how each ends.

The provider is the tests' own, on loopback; waits are counted, not slept. A secret key and a person's data go into
every request's text and are looked for in everything that left and everything that was written. Writes providers.json
and providers.md.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.engine.fake_provider import FakeProvider, FakeTime, Trouble, serving

from rung.base.errors import RungError
from rung.base.events import Events
from rung.base.files import write_json, write_text
from rung.base.settings import validate
from rung.engine.hosted.completer import Hosted
from rung.engine.hosted.settings import HostedSettings
from rung.records.contracts import Request, Sampling

__all__ = ["page", "run"]

KEY = "sk-planted-0123456789abcdefABCDEF0123456789"
PERSON = "jane.roe@example.org"
PRICES = {"m": {"prompt": 3.0, "completion": 15.0}}
_SLOW = threading.Event()


@dataclass(frozen=True)
class Case:
    """What the provider does, and settings beside the usual ones."""

    name: str
    troubles: Sequence[Trouble] = ()
    forever: Trouble | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    num_requests: int = 4


CASES = (
    Case("answers"),
    Case("fails twice", [Trouble(503), Trouble(500)]),
    Case("fails for ever", forever=Trouble(503)),
    Case("refuses the key", forever=Trouble(401)),
    Case("garbage twice", [Trouble(body=b"<html>busy</html>"), Trouble(body={"choices": []})]),
    Case("garbage for ever", forever=Trouble(body=b"{")),
    Case("slow once", [Trouble(wait=_SLOW)], settings={"timeout_seconds": 0.3}),
    Case("slow for ever", forever=Trouble(drip=True), settings={"timeout_seconds": 0.3, "retry": {"attempts": 3}}),
    Case("a cap on money", settings={"limits": {"money": 0.0008}}, num_requests=20),
    Case("a cap on requests", settings={"limits": {"requests": 3}}, num_requests=20),
)


class _Kept:
    """A sink that keeps every event."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def handle(self, event: dict[str, Any]) -> None:
        """Keep it."""
        self.events.append(event)

    def close(self) -> None:
        """Nothing to close."""


def run(results_folder: Path, quick: bool = False) -> None:
    """Every case; `quick` changes nothing, they take seconds."""
    rows = [_case(case) for case in CASES]
    result = {"rows": rows, "leaks": sum(row["leaks"] for row in rows)}
    sys.stdout.write(page(result))
    write_json(results_folder / "providers.json", result)
    write_text(results_folder / "providers.md", page(result))


def _case(case: Case) -> dict[str, Any]:
    time, kept = FakeTime(), _Kept()
    with serving(FakeProvider(troubles=case.troubles, forever=case.forever)) as provider:
        values = {
            "address": provider.address, "model": "m", "max_in_flight": 1, "prices": PRICES, "key_variable": "PLANTED",
            **case.settings,
        }  # fmt: skip
        hosted = Hosted(
            validate(HostedSettings, values, case.name), events=Events([kept]),
            environment={"PLANTED": KEY}, clock=time.clock, sleep=time.sleep,
        )  # fmt: skip
        ended, num_answers = "answered", 0
        try:
            num_answers = len(hosted.complete([_request(number) for number in range(case.num_requests)]))
        except RungError as error:
            ended = f"{error.code}: {error}"
        spend, seen = hosted.spend, list(provider.seen)
        hosted.release()
    # the key belongs in one header and nowhere else
    written = json.dumps([ended, kept.events, [one.body for one in seen]], default=str)
    return {
        "case": case.name, "ended": ended.splitlines()[0], "answers": num_answers, "sent": len(seen),
        "waits": len(time.sleeps), "waited": round(time.now, 1), "money": spend.money, "unsure": spend.money_unsure,
        "leaks": written.count(KEY) + written.count(PERSON),
    }  # fmt: skip


def _request(number: int) -> Request:
    text = f"Note {number}: write to {PERSON}; my key is {KEY}."
    return Request(str(number), Sampling(max_new_tokens=8), seed=number, text=text)


def page(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        "# Providers that trouble",
        "",
        f"A key and a person's address stand in every prompt; found in what left or was written: {result['leaks']} "
        "times. Prices are 3 and 15 per million tokens. Written by `python -m experiments providers`.",
        "",
        "| provider | how it ended | answers | requests sent | waits | seconds waited | paid | perhaps paid |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        figures = f"{row['answers']} | {row['sent']} | {row['waits']} | {row['waited']}"
        lines.append(f"| {row['case']} | {row['ended']} | {figures} | {row['money']:.6f} | {row['unsure']:.6f} |")
    return "\n".join(lines) + "\n"
