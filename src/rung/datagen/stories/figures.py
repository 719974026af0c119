"""What a set of stories is like, from its records alone: acceptance by reason, diversity, words used, length.

Diversity is the share of runs of n words that are different (distinct-n, Li and others 2016), over the first
`_RUNS` runs of all kept stories, since the share falls with the amount that is looked at.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from rung.base.proportions import wilson_interval
from rung.datagen.stories.inflect import occurring
from rung.datagen.stories.judging import Known
from rung.datagen.wording import words
from rung.records.types import Story

__all__ = ["Share", "StoryFigures", "distinct", "quality", "story_figures"]

_RUNS = 5000


@dataclass(frozen=True, slots=True)
class Share:
    """count of total, with Wilson's 95 % interval."""

    count: int
    total: int
    low: float
    high: float

    @staticmethod
    def of(count: int, total: int) -> Share:
        """With its interval; (0, 1) when nothing was counted."""
        low, high = wilson_interval(count, total)
        return Share(count, total, low, high)


@dataclass(frozen=True, slots=True)
class StoryFigures:
    """Of all that was written: outcomes, `drops` by "validator: reason", how many of the words and features asked for
    show (`words_used`, `features_shown`), also per kept story, and of the kept ones diversity, length and coverage:
    how many different words were asked for with success."""

    outcomes: dict[str, int]
    drops: dict[str, int]
    accepted: Share
    words_used: Share
    features_shown: Share
    distinct: dict[str, float]
    median_words: float
    different_words: int
    by_template: dict[str, Share]
    num_tokens: int


def story_figures(stories: Sequence[Story], known: Known) -> StoryFigures:
    """All figures; siblings that were passed over are accepted ones that were not needed."""
    kept = [story for story in stories if story.outcome == "kept"]
    fit = [story for story in stories if story.outcome in ("kept", "passed_over")]
    used = [occurring(story.words, story.text, known.vocabulary.irregular) for story in stories]
    shown = [sum(known.features[name].in_text(story.text) for name in story.features) for story in stories]
    templates = sorted({story.template for story in stories})
    return StoryFigures(
        outcomes=dict(sorted(Counter(story.outcome for story in stories).items())),
        drops=dict(Counter(f"{s.part}: {s.reason}" for s in stories if s.outcome == "dropped").most_common()),
        accepted=Share.of(len(fit), len(stories)),
        words_used=Share.of(sum(map(len, used)), sum(len(story.words) for story in stories)),
        features_shown=Share.of(sum(shown), sum(len(story.features) for story in stories)),
        distinct={f"distinct_{n}": distinct((story.text for story in kept), n) for n in (1, 2, 3)},
        median_words=statistics.median([len(words(story.text)) for story in kept]) if kept else 0.0,
        different_words=len({word for story in kept for word in story.words}),
        by_template={
            name: Share.of(sum(s.template == name for s in fit), sum(s.template == name for s in stories))
            for name in templates
        },
        num_tokens=sum(story.num_tokens for story in stories),
    )


def distinct(texts: Iterable[str], size: int) -> float:
    """Share of the first runs of `size` words, over all texts in order, that are different; 0.0 without any."""
    spoken = (words(text) for text in texts)
    runs = (tuple(one[n : n + size]) for one in spoken for n in range(len(one) - size + 1))
    first = list(islice(runs, _RUNS))
    return len(set(first)) / len(first) if first else 0.0


def quality(story: Story, known: Known) -> float:
    """Between 0 and 1: the mean share of words used, features shown, known words and different runs of three."""
    spoken = words(story.text)
    used = len(occurring(story.words, story.text, known.vocabulary.irregular)) / max(1, len(story.words))
    shown = [known.features[name].in_text(story.text) for name in story.features]
    easy = sum(word in known.vocabulary.known_forms for word in spoken) / max(1, len(spoken))
    return statistics.fmean((used, sum(shown) / len(shown) if shown else 1.0, easy, distinct([story.text], 3)))
