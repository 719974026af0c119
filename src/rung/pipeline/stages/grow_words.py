"""A longer list of words for `stories`: a completer names more of each kind, what may not stand in it is dropped.

The published file is a list as `stories` reads it. Run again from that file, nothing is asked for that is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rung.base.files import write_text
from rung.base.settings import Field
from rung.datagen.stories.growing import GrowSettings, grow, list_text
from rung.datagen.stories.vocabulary import KINDS, WORDS, load_vocabulary
from rung.pipeline.stage import Context, KnownBy, Outputs, Stage, Terms, Verdict
from rung.pipeline.stages._writing import WritingSettings, check_writing, open_pen, written_by
from rung.records.manifest import Opened

__all__ = ["GrowWords"]


class GrowWordsSettings(WritingSettings):
    """Which list, and how long it is to be."""

    words: str = Field("", description="the list to begin with (YAML); empty: the shipped one")
    grow: GrowSettings = Field(GrowSettings(), description="how many words, and how they are asked for")
    allow_missing: bool = Field(False, description="pass although words are still missing")


class GrowWords(Stage):
    """A list of words, and the drops with their reasons."""

    Settings = GrowWordsSettings
    version = 1
    outputs: Mapping[str, str] = {"drop": "drop"}

    def files(self) -> dict[str, Path]:
        """The list, where it is the user's."""
        return {"words": Path(self.settings.words)} if self.settings.words else {}

    def check(self, terms: Terms) -> None:
        """The list is read once.

        Raises:
            SettingsError, DataError: naming the setting, or the word.
        """
        check_writing(self.settings, terms, continues=True)
        load_vocabulary(self._path)

    def known_by(self) -> KnownBy:
        """The writer by its model."""
        return written_by(self.settings)

    @property
    def _path(self) -> Path:
        return Path(self.settings.words) if self.settings.words else WORDS

    def run(self, context: Context, inputs: Mapping[str, Opened], outputs: Outputs) -> None:
        """Ask for what is missing and publish the list."""
        before = load_vocabulary(self._path)
        pen = open_pen(context, outputs, self.settings)
        grown = grow(before, pen.completer, self.settings.grow, context.seed)
        outputs.shard("drop", 0, grown.dropped)
        write_text(outputs.file("words.yaml", "words"), list_text(grown.vocabulary))
        outputs.note("drops", dict(Counter(drop.reason for drop in grown.dropped)))
        outputs.note("figures", {"before": {kind: len(before.of(kind)) for kind in KINDS}})
        context.budget.spend(tokens=grown.num_tokens)

    def figures(self, output: Opened) -> dict[str, Any]:
        """Words of each kind in the published list, and how many are missing."""
        found = load_vocabulary(output.file("words"))
        counts = {kind: len(found.of(kind)) for kind in KINDS}
        wanted = self.settings.grow.wanted
        return {"words": counts, "missing": {kind: max(0, wanted[kind] - counts[kind]) for kind in wanted}}

    def gate(self, figures: Mapping[str, Any]) -> Verdict:
        """Nothing is missing, unless that was allowed."""
        missing = {kind: count for kind, count in figures["missing"].items() if count}
        if not missing or self.settings.allow_missing:
            return Verdict(True)
        return Verdict(False, tuple(f"{count} {kind}s are still missing" for kind, count in missing.items()))
