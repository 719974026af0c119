"""The branch-and-rethink judge (BR-RM, arXiv 2510.23596): reads a pair twice and ranks it, by two real generations.

Turn one sees the request and both responses, chooses one to three of eight dimensions and notes suspicions. It stays in
the conversation; turn two is told to read again under that choice, to verify and to rank. The judge is generative: it
has no head and no score of its own but the box it ends in. Every pair is read in both orders. A trace that breaks the
format (`rung.scoring.branch_format`) is no judgement and abstains.

It compares answers, so as a scorer it needs several to one item: an answer's value is the log-odds of its win rate over
the others, (wins + 1/2) / (comparisons + 1), which `rewards/judge` turns back into a share; equal texts draw. An item
with a single answer is abstained from. Unlike the critics of this folder it gates no data.

Generations are joined as token ids where the model's tokenizer is lent, as messages where the completer takes those.
`layout` one_turn asks for the same blocks at once; one_pass and unverified remove the rethinking. A small model cannot
follow the format untrained: `rung.scoring.branch_demonstrations` writes a set to start from, and the reward `ranking`
trains it by outcome.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, ClassVar

from rung.base.errors import ModelError
from rung.base.fingerprint import content_hash
from rung.base.seeds import derive
from rung.base.settings import Field, Settings
from rung.records.chat.prompting import PromptSettings
from rung.records.contracts import Completer, Item, Sampling, Score, Trace
from rung.records.conversation import Conversation, Room, converse
from rung.records.tokenizer import Tokenizer
from rung.scoring.branch_format import read
from rung.scoring.branch_script import BranchScript
from rung.scoring.branch_wording import Layout, first_words, last_words
from rung.scoring.judged_pairs import Verdict, exchanged, pair_item

__all__ = ["BranchRethink"]


class BranchRethinkSettings(Settings):
    """How pairs are read."""

    layout: Layout = Field(
        default="two_turns", description="two_turns; or, to compare with, one_turn, one_pass or unverified"
    )
    dimensions: tuple[str, ...] = Field(
        default=(), max_length=3, description="dimensions forced on turn one; none: the model chooses"
    )
    chat: PromptSettings = Field(default_factory=PromptSettings, description="format of the turns, where they are ids")
    temperature: float = Field(default=0.0, ge=0, le=10, description="of both generations; 0 is greedy")
    max_first_tokens: int = Field(default=256, ge=1, description="limit of the first generation")
    max_second_tokens: int = Field(default=512, ge=1, description="limit of the second generation")
    num_opponents: int = Field(
        default=0, ge=0, description="answers that each is compared with, in a ring of all; 0: with every other"
    )
    seed: int = Field(default=0, ge=0, description="of the draws")
    allow_unclean_model: bool = Field(default=False, description="judge with a model that the guard did not pass")


class BranchRethink:
    """Judges pairs in two turns, and several answers to one item by their win rates."""

    Settings = BranchRethinkSettings
    TAKES_TOKENIZER: ClassVar[bool] = True

    def __init__(
        self, settings: BranchRethinkSettings, completer: Completer, tokenizer: Tokenizer | None = None
    ) -> None:
        """Take the model, and its tokenizer where turns are to be joined as ids.

        Raises:
            ModelError: the model is not clean and the settings do not allow that.
            SettingsError: a dimension that does not exist, or one twice.
        """
        able = completer.capabilities()
        if not able.clean and not settings.allow_unclean_model:
            raise ModelError(
                f"the judge 'branch_rethink' takes only a model that came through the clean loader; '{able.name}' did "
                "not",
                hint="load it with rung.models.load, or set allow_unclean_model: true, which the record keeps",
            )
        self._settings, self._clean, self._name = settings, able.clean, able.name
        self._script = BranchScript(settings.layout, settings.dimensions)
        both = (settings.max_first_tokens, settings.max_second_tokens)
        limits = both if self._script.num_turns > 1 else (sum(both),)
        sampling = tuple(Sampling(settings.temperature, max_new_tokens=limit) for limit in limits)
        self._room = Room(completer, sampling, tokenizer, settings.chat)

    def verdicts(self, items: Sequence[Item]) -> list[Verdict]:
        """Every pair read as it stands and with its responses exchanged; see `rung.scoring.judged_pairs`.

        Raises:
            DataError: an item that is no pair.
            SettingsError: the completer takes neither ids (no tokenizer was lent) nor messages.
        """
        both = [*items, *(exchanged(item) for item in items)]
        talks = converse(self._room, self._script, both, [self._seed(item) for item in both])
        pairs = zip(items, talks[: len(items)], talks[len(items) :], strict=True)
        return [self._verdict(item, given, other) for item, given, other in pairs]

    def score(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Score]:
        """One score per (item, trace) pair: the log-odds of its win rate among all answers to the same item."""
        groups: dict[str, list[int]] = {}
        for place, item in enumerate(items):
            groups.setdefault(item.id, []).append(place)
        matches = [match for places in groups.values() for match in self._matches(places, traces)]
        played = [
            pair_item(items[a].id, items[a].instruction, (traces[a].text, traces[b].text)) for a, b in matches
        ]  # fmt: skip
        won: dict[int, list[float]] = {place: [] for place in range(len(items))}
        for (a, b), verdict in zip(matches, self.verdicts(played), strict=True):
            if (preference := verdict.preference) is not None:
                won[a].append(preference)
                won[b].append(1 - preference)
        self._add_draws(groups, traces, won)
        return [_score(won[place]) for place in range(len(items))]

    def record(self) -> Mapping[str, Any]:
        """For the manifest: settings, the hash of the wording, the model's name and whether it is clean."""
        example = pair_item("wording", "", ("", ""))
        layout = self._settings.layout
        return {
            "judge": "branch_rethink",
            "settings": self._settings.model_dump(mode="json"),
            "wording": content_hash([first_words(example, layout), last_words(layout)])[:16],
            "model": self._name,
            "clean_model": self._clean,
        }

    def _seed(self, item: Item) -> int:
        return derive(self._settings.seed, "judge", item.id, *item.reference["responses"])

    def _verdict(self, item: Item, given: Conversation, other: Conversation) -> Verdict:
        readings = tuple(read(talk.texts, self._settings.layout) for talk in (given, other))
        as_given, turned = (reading.choice for reading in readings)
        return Verdict(
            item.id, as_given, None if turned is None else 3 - turned, readings, given.num_drawn + other.num_drawn
        )

    def _matches(self, places: Sequence[int], traces: Sequence[Trace]) -> list[tuple[int, int]]:
        """Which answers meet: one of each text, by their texts, so that the order of the list decides nothing."""
        by_text = {traces[place].text: place for place in reversed(places)}
        ring = [by_text[text] for text in sorted(by_text)]
        wanted = self._settings.num_opponents
        if not wanted or wanted >= len(ring) - 1:
            return list(combinations(ring, 2))
        steps = range(1, -(-wanted // 2) + 1)
        return [(ring[n], ring[(n + step) % len(ring)]) for step in steps for n in range(len(ring))]

    def _add_draws(
        self, groups: Mapping[str, Sequence[int]], traces: Sequence[Trace], won: Mapping[int, list[float]]
    ) -> None:
        """Equal texts fare alike, and draw with each other."""
        for places in groups.values():
            same: dict[str, list[int]] = {}
            for place in places:
                same.setdefault(traces[place].text, []).append(place)
            for alike in same.values():
                fared = [*won[alike[0]], *[0.5] * (len(alike) - 1)]
                for place in alike:
                    won[place][:] = fared


def _score(won: Sequence[float]) -> Score:
    if not won:
        return Score(None, "abstained: it was compared with no other answer", abstained=True)
    share = (math.fsum(won) + 0.5) / (len(won) + 1)
    components = {"win_rate": math.fsum(won) / len(won), "num_comparisons": float(len(won))}
    return Score(math.log(share / (1 - share)), f"{len(won)} comparisons", components)
