"""From prompts to stories: requests, completions, records, verdicts of the validators. What a strategy is lent.

Validators that only look at a story come first; those that remember what was kept (near copies) see what is left, so
that siblings from one opening are compared before one of them is remembered.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rung.base.seeds import derive
from rung.datagen.findings import apply_filters
from rung.datagen.stories.figures import quality
from rung.datagen.stories.judging import Known, Validators
from rung.datagen.stories.prompts import Planner, StoryPrompt
from rung.records.chat.asking import Asking
from rung.records.contracts import Completer, Completion, Request, Sampling
from rung.records.types import Drop, Story, record_id

__all__ = ["Draft", "Piece", "Writer", "together"]


@dataclass(frozen=True, slots=True)
class Draft:
    """A prompt with what was asked and answered. `begun` is the opening that it goes on from."""

    prompt: StoryPrompt
    request: Request
    completion: Completion
    begun: Completion | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """Decided stories in the order of their prompts, and the drops among them."""

    stories: tuple[Story, ...]
    dropped: tuple[Drop, ...]

    @property
    def num_kept(self) -> int:
        """How many of them were kept."""
        return sum(story.outcome == "kept" for story in self.stories)


@dataclass(frozen=True)
class Writer:
    """Everything that writing takes but the order of work. `sampling` is that of a story; validators are fresh."""

    completer: Completer
    asking: Asking
    planner: Planner
    validators: Validators
    sampling: Sampling
    known: Known
    memories: Validators = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "memories", [one for one in self.validators if hasattr(one[1], "remember")])

    def complete(self, prompts: Sequence[StoryPrompt], seed: int, sampling: Sequence[Sampling] = ()) -> list[Draft]:
        """An answer to each prompt. It depends on (prompt, seed, sampling) alone; `sampling` has one for each, or none
        (then the writer's)."""
        drawn = sampling or [self.sampling] * len(prompts)
        requests = [
            self.asking.request(prompt.id, prompt.messages, one, derive(seed, "story", prompt.id))
            for prompt, one in zip(prompts, drawn, strict=True)
        ]
        return [Draft(*row) for row in zip(prompts, requests, self.completer.complete(requests), strict=True)]

    def continued(self, openings: Sequence[Draft], width: int, seed: int) -> list[list[Draft]]:
        """`width` ways on from each opening, drawn with the writer's sampling less what the opening took."""
        plan = [(opening, number) for opening in openings for number in range(width)]
        requests = [self._onwards(opening, number, seed) for opening, number in plan]
        completions = self.completer.complete(requests)
        rows = zip(plan, requests, completions, strict=True)
        drafts = [Draft(o.prompt, request, done, o.completion) for (o, _), request, done in rows]
        return [drafts[n * width : (n + 1) * width] for n in range(len(openings))]

    def _onwards(self, opening: Draft, number: int, seed: int) -> Request:
        left = max(1, self.sampling.max_new_tokens - len(opening.completion.token_ids))
        sampling = dataclasses.replace(self.sampling, max_new_tokens=left)
        name = f"{opening.prompt.id}-{number}"
        own_seed = derive(seed, "branch", opening.prompt.id, number)
        return self.asking.continued(name, opening.request, opening.completion, sampling, own_seed)

    def stories(self, drafts: Sequence[Draft], strategy: str) -> list[Story]:
        """The drafts as records, not judged yet."""
        return [_story(draft, strategy) for draft in drafts]

    def sift(self, stories: Sequence[Story]) -> tuple[list[Story], Piece]:
        """(stories without a fault, the others as a decided piece), by the validators that do not remember."""
        judged = apply_filters([one for one in self.validators if one not in self.memories], stories)
        return list(judged.kept), Piece(judged.decided, judged.dropped)

    def keep(self, stories: Sequence[Story]) -> Piece:
        """Decide stories without a fault: kept, or dropped by a validator that remembers what was kept before."""
        judged = apply_filters(self.memories, stories)
        kept = [dataclasses.replace(story, outcome="kept") for story in judged.kept]
        return Piece((*kept, *judged.decided), judged.dropped)

    def judge(self, stories: Sequence[Story]) -> Piece:
        """Every story decided, in the order given."""
        fit, unfit = self.sift(stories)
        return together(stories, [self.keep(fit), unfit])

    def best_first(self, stories: Iterable[Story]) -> list[Story]:
        """By `quality`, the earlier of equals first."""
        return sorted(stories, key=lambda story: -quality(story, self.known))


def together(order: Sequence[Story], pieces: Sequence[Piece]) -> Piece:
    """One piece out of several, its stories in the given order."""
    decided: dict[str, Story] = {story.id: story for piece in pieces for story in piece.stories}
    dropped = [drop for piece in pieces for drop in piece.dropped]
    return Piece(tuple(decided[story.id] for story in order if story.id in decided), tuple(dropped))


def _story(draft: Draft, strategy: str) -> Story:
    prompt, request, done, begun = draft.prompt, draft.request, draft.completion, draft.begun
    opening = begun.raw_text if begun else ""
    raw, text = opening + done.raw_text, (opening + done.text).strip()
    return Story(
        id=record_id("story", strategy, request.id, prompt.id, request.seed, raw),
        prompt_id=prompt.id,
        text=text,
        raw_text=raw,
        finish_reason=done.finish_reason,
        number=prompt.number,
        words=prompt.words,
        features=prompt.features,
        level=prompt.level,
        template=prompt.template.name,
        template_version=prompt.template.version,
        strategy=strategy,
        messages=prompt.messages,
        seed=request.seed,
        temperature=request.sampling.temperature,
        num_tokens=len(done.token_ids),
        parent=begun.id if begun else "",
    )
