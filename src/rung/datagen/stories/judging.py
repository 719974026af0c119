"""What validators of stories have in common: what they are given, and how findings become drops with spans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rung.base.lookup import part
from rung.datagen.findings import Finding
from rung.datagen.stories.features import Features
from rung.datagen.stories.vocabulary import Vocabulary
from rung.records.contracts import FilterResult
from rung.records.types import Drop, Story

__all__ = ["VALIDATORS", "Known", "Validators", "sift_stories", "validators"]

VALIDATORS = "datagen.stories.validators"
Validators = list[tuple[str, Any]]


@dataclass(frozen=True, slots=True)
class Known:
    """What a validator may look things up in."""

    vocabulary: Vocabulary
    features: Features


def sift_stories(name: str, stories: Sequence[Story], find: Callable[[Story], Finding | None]) -> FilterResult:
    """Keep the stories in which `find` finds nothing, in order; the others become drops of `name`."""
    kept, dropped = [], []
    for story in stories:
        finding = find(story)
        if finding is None:
            kept.append(story)
        else:
            dropped.append(Drop(story.id, story.text, name, finding.rule, finding.span, {"prompt": story.prompt_id}))
    return FilterResult(tuple(kept), tuple(dropped))


def validators(specs: Sequence[str | dict[str, object]], known: Known, place: str) -> Validators:
    """Fresh validators by name, in order; some of them remember what they kept.

    Raises:
        SettingsError: an unknown one, or settings that are wrong.
    """
    found: Validators = []
    for spec in specs:
        kind, settings = part(VALIDATORS, spec, place)
        found.append((spec if isinstance(spec, str) else str(spec["kind"]), kind(settings, known)))
    return found
