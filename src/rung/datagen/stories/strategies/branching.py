"""One opening, several ways on, and the best of those without a fault: a good opening is paid for once.

The openings of a piece are drawn first, to `opening_tokens`; from each of them `width` stories go on, which an engine
begins from the same cache. A story that ended in its opening stands as it is. Needs a completer that continues text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import islice

from rung.base.seeds import derive
from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.stories.prompts import StoryPrompt
from rung.datagen.stories.writer import Draft, Piece, Writer, together
from rung.records.types import Story

__all__ = ["Branching"]


class Branching:
    """Pieces of `openings` prompts; of each at most one story is kept, its fit siblings are passed over."""

    class Settings(BaseSettings):
        """Sizes."""

        openings: int = Field(16, ge=1, le=1024, description="prompts of a piece")
        width: int = Field(3, ge=1, le=32, description="ways on from each opening")
        opening_tokens: int = Field(24, ge=1, description="tokens of an opening")

    continues = True

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def pieces(self, writer: Writer, prompts: Iterator[StoryPrompt], target: int, seed: int) -> Iterator[Piece]:
        """Decided pieces until `target` stories were kept or the prompts are used up."""
        kept = 0
        while kept < target and (taken := list(islice(prompts, self.settings.openings))):
            piece = self._piece(writer, taken, derive(seed, "branching"))
            kept += piece.num_kept
            yield piece

    def _piece(self, writer: Writer, taken: Sequence[StoryPrompt], seed: int) -> Piece:
        short = dataclasses.replace(writer.sampling, max_new_tokens=self.settings.opening_tokens)
        openings = writer.complete(taken, seed, [short] * len(taken))
        begun = [opening for opening in openings if opening.completion.hit_limit]
        ways = dict(
            zip((one.prompt.id for one in begun), writer.continued(begun, self.settings.width, seed), strict=True)
        )
        siblings = [_siblings(writer, opening, ways.get(opening.prompt.id, [])) for opening in openings]
        everything = [story for group in siblings for story in group]
        fit, unfit = writer.sift(everything)
        chosen, passed = _best(writer, fit)
        return together(everything, [writer.keep(chosen), Piece(tuple(passed), ()), unfit])


def _siblings(writer: Writer, opening: Draft, ways: Sequence[Draft]) -> list[Story]:
    """The stories of one opening; what the opening cost counts for the first of them."""
    stories = writer.stories(ways or [opening], "branching")
    extra = len(opening.completion.token_ids) if ways else 0
    return [dataclasses.replace(stories[0], num_tokens=stories[0].num_tokens + extra), *stories[1:]]


def _best(writer: Writer, fit: Sequence[Story]) -> tuple[list[Story], list[Story]]:
    """(the best story of each prompt, its siblings as passed over)."""
    leaders: dict[str, Story] = {}
    for story in writer.best_first(fit):
        leaders.setdefault(story.prompt_id, story)
    chosen = [story for story in fit if leaders[story.prompt_id].id == story.id]
    rest = [story for story in fit if leaders[story.prompt_id].id != story.id]
    return chosen, [
        dataclasses.replace(one, outcome="passed_over", part="branching", reason="sibling_is_better") for one in rest
    ]
