"""The ledger of a run: one line per thing that happened to a stage, appended, flushed, never rewritten.

It answers three questions: what was spent over all attempts, how did each attempt end, and what did a manifest say
when it was written (the seal: one hash per field, so that a later edit is found and named).
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pydantic

from rung.base.errors import DataError
from rung.base.fingerprint import content_hash, plain
from rung.base.secrets import redact_all
from rung.base.settings import Field, Settings
from rung.pipeline.budget import Spend
from rung.records.manifest import Manifest

__all__ = ["Entry", "Ledger", "Totals", "mend", "seal_of", "utc_now"]

FILE_NAME = "ledger.jsonl"


def utc_now() -> str:
    """Now, UTC, ISO 8601, to the millisecond."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


class Entry(Settings):
    """One line."""

    time: str = Field(default_factory=utc_now, description="UTC, ISO 8601")
    event: str = Field(description="started, sealed, ended or reviewed")
    stage: str = Field(description="name of the stage in the recipe")
    attempt: int = Field(0, description="number of the attempt within the run")
    fingerprint: str = ""
    outcome: str = Field("", description="done, gate_failed, killed, crashed, collected, or the code of an ending")
    message: str = ""
    spend: dict[str, float] = Field(default_factory=dict, description="of this attempt: seconds, tokens, money")
    seal: dict[str, str] = Field(default_factory=dict, description="field of the manifest -> hash of its value")


@dataclass(frozen=True, slots=True)
class Totals:
    """What a run cost: `by_stage` sums to `total`; `share` is the part of the money cap used (None without a cap).

    `num_reviews` counts the reviews among what was paid for, refused and failed ones too.
    """

    total: Spend
    by_stage: dict[str, Spend]
    share: float | None
    num_reviews: int = 0


class Ledger:
    """The file `ledger.jsonl` of one run folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME

    def entries(self) -> list[Entry]:
        """All lines, oldest first; a last line that a power cut tore is left out.

        Raises:
            DataError: another line is broken.
        """
        if not self._path.is_file():
            return []
        lines = self._path.read_bytes().split(b"\n")[:-1]
        return [self._parse(number, line) for number, line in enumerate(lines, 1)]

    def _parse(self, number: int, line: bytes) -> Entry:
        try:
            return Entry.model_validate_json(line)
        except pydantic.ValidationError as error:
            problem = error.errors()[0]
            raise DataError(
                f"not a ledger line: {problem['msg']}",
                place=f"{FILE_NAME}:{number}",
                hint="take the file from a backup, or start under another run name",
            ) from error

    def append(self, entry: Entry) -> None:
        """Add one line and flush it to disk."""
        mend(self._path)
        with self._path.open("ab") as file:
            file.write((json.dumps(redact_all(plain(entry)), ensure_ascii=False) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())

    def next_attempt(self) -> int:
        """Number for the attempt about to start."""
        return 1 + max((entry.attempt for entry in self.entries()), default=0)

    def seal(self, stage: str) -> dict[str, str]:
        """The last seal of a stage's manifest; empty when it has none."""
        seals = [entry.seal for entry in self.entries() if entry.event == "sealed" and entry.stage == stage]
        return seals[-1] if seals else {}

    def spent(self, stage: str = "", fingerprint: str = "") -> Spend:
        """Sum over ended attempts: of the run, of one stage, or of one stage under one fingerprint."""
        return _sum(
            entry for entry in self.entries() if stage in ("", entry.stage) and fingerprint in ("", entry.fingerprint)
        )

    def totals(self, money_cap: float | None = None) -> Totals:
        """What was spent, by stage and in all."""
        entries = self.entries()
        stages = list(dict.fromkeys(entry.stage for entry in entries if entry.spend))
        total, num_reviews = self.spent(), sum(entry.event == "reviewed" for entry in entries)
        share = total.money / money_cap if money_cap else None
        return Totals(total, {stage: self.spent(stage) for stage in stages}, share, num_reviews)


def _sum(entries: Iterable[Entry]) -> Spend:
    total = Spend()
    for entry in entries:
        total = total + Spend(**entry.spend)
    return total


def mend(path: Path) -> None:
    """Cut a last line without its end, which only a kill or a power cut in mid-write leaves."""
    if not path.is_file() or path.stat().st_size == 0:
        return
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def seal_of(manifest: Manifest) -> dict[str, str]:
    """One short hash per field of the manifest."""
    return {key: content_hash(value)[:16] for key, value in plain(manifest).items()}
