"""A corpus of stories, written through a completer: words and features asked for, validators that judge, kept texts.

`count` means kept stories. Every story is kept as a record of the output `story`, with its verdict; what the corpus
consists of are the records of `document`. A shard is what is saved at once, so at most one is lost when a run is
killed. Copies across shards are left out when all shards are there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rung.base.errors import GateFailed
from rung.base.fingerprint import plain
from rung.base.lookup import part
from rung.base.seeds import derive
from rung.base.settings import Field, Settings
from rung.datagen.merge import shard_sizes
from rung.datagen.stories.features import FEATURES, load_features
from rung.datagen.stories.figures import story_figures
from rung.datagen.stories.judging import VALIDATORS, Known, validators
from rung.datagen.stories.making import Made, Monitor, WatchSettings, document_of, make_stories
from rung.datagen.stories.prompts import PROMPTS, Planner, PlanSettings, load_prompts
from rung.datagen.stories.vocabulary import WORDS, load_vocabulary
from rung.datagen.stories.writer import Writer
from rung.pipeline.sharding import for_each_shard
from rung.pipeline.stage import Context, KnownBy, Outputs, Stage, Terms, Verdict
from rung.pipeline.stages._writing import (
    DrawSettings,
    Pen,
    WritingSettings,
    check_writing,
    open_pen,
    writer_name,
    written_by,
)
from rung.records.manifest import Opened
from rung.records.types import Drop, Story

__all__ = ["Stories"]

_STRATEGIES = "datagen.stories.strategies"


class LimitSettings(Settings):
    """What the finished corpus must meet."""

    min_distinct_3: float = Field(0.5, ge=0, le=1, description="different runs of three words, of the first 5,000")
    max_copies: float = Field(0.1, ge=0, le=1, description="share of stories that may be lost as copies across shards")


class StoriesSettings(WritingSettings):
    """How much, of what, by whom."""

    count: int = Field(100, ge=1, description="stories to keep, over all shards")
    shards: int = Field(1, ge=1, description="pieces, each saved when it is whole")
    strategy: str | dict[str, Any] = Field("batch", description="a part of datagen/stories/strategies")
    plan: PlanSettings = Field(PlanSettings(), description="what a prompt asks for")
    words: str = Field("", description="a list of words (YAML); empty: the shipped one")
    vocabulary: str = Field("", description="the stage that grew the list of words; empty: the list in `words`")
    features: str = Field("", description="a file of features (YAML); empty: the shipped one")
    prompts: str = Field("", description="a file of templates and shots (YAML); empty: the shipped one")
    sampling: DrawSettings = Field(DrawSettings(), description="how stories are drawn")
    validators: tuple[str | dict[str, Any], ...] = Field(
        (
            "chatter",
            "blocked_words",
            "length",
            "ending",
            "loops",
            "simplicity",
            "known_words",
            "required_words",
            "features",
            "near_copies",
        ),
        description="parts of datagen/stories/validators, in order",
    )
    max_prompts: int = Field(40, ge=1, description="most prompts for each story that is to be kept")
    watch: WatchSettings = Field(WatchSettings(), description="when writing is going badly")
    limits: LimitSettings = Field(LimitSettings(), description="what the finished corpus must meet")
    licence: str = Field("", description="licence that the documents carry")


class Stories(Stage):
    """Stories with their verdicts, drops, and the documents of the corpus."""

    Settings = StoriesSettings
    version = 1
    outputs: Mapping[str, str] = {"story": "story", "drop": "drop", "document": "document"}

    def inputs(self) -> dict[str, str]:
        """The stage that grew the words, where one is named."""
        return {"vocabulary": self.settings.vocabulary} if self.settings.vocabulary else {}

    def files(self) -> dict[str, Path]:
        """The lists that are the user's."""
        own = self.settings
        named = {"words": own.words, "features": own.features, "prompts": own.prompts}
        return {key: Path(name) for key, name in named.items() if name}

    def check(self, terms: Terms) -> None:
        """Lists, templates and parts are read once, so that what is wrong is told before any work.

        Raises:
            SettingsError, DataError: naming the setting, or the entry of the file.
        """
        kind, _ = part(_STRATEGIES, self.settings.strategy, "strategy")
        check_writing(self.settings, terms, kind.continues)
        _planner(self.settings)
        for spec in self.settings.validators:
            part(VALIDATORS, spec, "validators")

    def known_by(self) -> KnownBy:
        """The writer by its model."""
        return written_by(self.settings)

    def units(self, inputs: Mapping[str, Opened]) -> float | None:
        """Stories to keep."""
        return float(self.settings.count)

    def run(self, context: Context, inputs: Mapping[str, Opened], outputs: Outputs) -> None:
        """Write every shard that is not finished, then the documents."""
        own, grown = self.settings, inputs.get("vocabulary")
        words = grown.file("words") if grown else None
        sizes = shard_sizes(own.count, own.shards)
        outputs.note("seeds", {"plan": context.seed})

        def make_work() -> Callable[[int], None]:
            """Load the model once in every process that writes."""
            pen, planner = open_pen(context, outputs, own), _planner(own, words)

            def work(index: int) -> None:
                """Write and save one shard."""
                made = _shard(own, context, pen, planner, (index, sizes[index]))
                outputs.shard("drop", index, made.dropped)
                outputs.shard("story", index, made.stories)
                context.budget.spend(tokens=made.num_tokens)

            return work

        for_each_shard(context, outputs, "story", range(own.shards), make_work)
        _documents(own, outputs, f"stories:{writer_name(own, context)}")

    def figures(self, output: Opened) -> dict[str, Any]:
        """Everything recomputed from the records."""
        own = self.settings
        planner = _planner(own)
        stories = list(output.records("story"))
        kept, documents = sum(s.outcome == "kept" for s in stories), output.count("document")
        found = story_figures(stories, Known(planner.vocabulary, planner.features))
        return {"stories": plain(found), "kept": kept, "documents": documents, "wanted": own.count}

    def gate(self, figures: Mapping[str, Any]) -> Verdict:
        """Enough stories, few copies across shards, and not all alike."""
        limits, kept, wanted = self.settings.limits, figures["kept"], figures["wanted"]
        reasons = []
        if kept < wanted:
            reasons.append(f"shortfall: {kept} of {wanted} stories were kept before the prompts were used up")
        if kept - figures["documents"] > limits.max_copies * kept:
            reasons.append(f"{kept - figures['documents']} of {kept} stories are copies across shards")
        diversity = figures["stories"]["distinct"]["distinct_3"]
        if diversity < limits.min_distinct_3:
            reasons.append(f"distinct_3 is {diversity:.2f}, limit {limits.min_distinct_3:.2f}")
        return Verdict(not reasons, tuple(reasons))


def _planner(own: StoriesSettings, words: Path | None = None) -> Planner:
    """The planner over the lists of the settings; `words` stands before the list that they name."""
    features = load_features(Path(own.features) if own.features else FEATURES)
    prompts = load_prompts(features, Path(own.prompts) if own.prompts else PROMPTS)
    return Planner(own.plan, load_vocabulary(words or (Path(own.words) if own.words else WORDS)), features, prompts)


def _shard(own: StoriesSettings, context: Context, pen: Pen, planner: Planner, share: tuple[int, int]) -> Made:
    """Write shard `share[0]`, to keep `share[1]` stories: its prompts are every `shards`-th of the plan."""
    index, target = share
    known = Known(planner.vocabulary, planner.features)
    fresh = validators(own.validators, known, f"{context.name}.validators")
    writer = Writer(pen.completer, pen.asking, planner, fresh, own.sampling.sampling, known)
    kind, settings = part(_STRATEGIES, own.strategy, f"{context.name}.strategy")
    prompts = islice(planner.prompts(context.seed, index, own.shards), target * own.max_prompts)
    monitor = Monitor(own.watch, time.monotonic)

    def after(made: Made, latest: Sequence[Story]) -> None:
        """Curves, progress, a stop request, and an end where it goes too badly."""
        reading = monitor.add(latest)
        step = len(made.stories)
        context.events.metric(
            f"stories/{index}/accepted", reading.accepted.count / max(1, reading.accepted.total), step
        )
        context.events.metric(f"stories/{index}/kept_per_minute", reading.kept_per_minute, step)
        context.events.metric(f"stories/{index}/tokens_per_second", reading.tokens_per_second, step)
        context.events.progress(f"stories of shard {index}", min(target, made.num_kept), target, "stories")
        context.budget.poll()
        if reading.alarm:
            hint = "look at the drops by reason (rung inspect), or ask for less: plan, validators"
            raise GateFailed(f"shard {index}: {reading.alarm}", place=context.name, hint=hint)

    return make_stories(writer, kind(settings), prompts, (target, derive(context.seed, "shard", index)), after)


def _documents(own: StoriesSettings, outputs: Outputs, source: str) -> None:
    """The kept stories as documents, shard by shard; a copy of an earlier shard's story becomes a drop."""
    planner, finished = _planner(own), set(outputs.finished("document"))
    named = [one for one in own.validators if (one if isinstance(one, str) else one["kind"]) == "near_copies"]
    known = Known(planner.vocabulary, planner.features)
    [(_, copies)] = validators(named[:1] or ["near_copies"], known, "validators")
    copied: list[Drop] = []
    for index in range(own.shards):
        kept = [story for story in outputs.shard_records("story", index) if story.outcome == "kept"]
        found = copies.apply(kept)
        copied += found.dropped
        if index not in finished:
            outputs.shard("document", index, [document_of(story, source, own.licence) for story in found.kept])
    if own.shards not in outputs.finished("drop"):
        outputs.shard("drop", own.shards, copied)
    outputs.note("drops", {"copies across shards": len(copied)})
