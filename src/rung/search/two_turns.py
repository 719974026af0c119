"""A scripted conversation as one rollout: several generations, and between them words that nobody sampled.

The player of judges that read a pair twice (`rung.scoring.branch_script`), and of any other fixed script. The second
user turn is inserted and not trained; all drawn tokens are one sequence and share what the outcome earns. A trace's
`turns` are the answers as they were drawn, so that a strict reader sees which turn said what.
"""

from __future__ import annotations

from collections.abc import Sequence

from rung.base.errors import DataError
from rung.base.settings import Field, Settings
from rung.records.chat.prompting import PromptSettings
from rung.records.contracts import Completer, Item, Sampling, Trace
from rung.records.conversation import Conversation, Room, Script, converse
from rung.records.tokenizer import Tokenizer
from rung.search.played import Played

__all__ = ["TwoTurns"]


class TwoTurnsSettings(Settings):
    """How both answers are drawn."""

    temperature: float = Field(1.0, ge=0, le=10, description="of the draws; 0 is greedy and only for answers")
    top_p: float = Field(1.0, gt=0, le=1, description="smallest set of tokens with this mass; 1 is all")
    top_k: int = Field(0, ge=0, description="most tokens drawn from; 0 is all")
    max_first_tokens: int = Field(160, ge=1, le=32768, description="limit of the first generation")
    max_second_tokens: int = Field(320, ge=1, le=32768, description="limit of the second generation")


class TwoTurns:
    """Plays items with a script; results depend on the item and its seed alone. The limit of a script with a single
    turn is that of both together."""

    Settings = TwoTurnsSettings

    def __init__(
        self,
        completer: Completer,
        tokenizer: Tokenizer,
        script: Script,
        settings: TwoTurnsSettings,
        prompt: PromptSettings | None = None,
    ) -> None:
        both = (settings.max_first_tokens, settings.max_second_tokens)
        limits = both if script.num_turns > 1 else (sum(both),)
        cut = settings.top_p < 1 or settings.top_k > 0
        drawn = tuple(Sampling(settings.temperature, settings.top_p, settings.top_k, 1.0, limit) for limit in limits)
        self.settings, self._script = settings, script
        self._room = Room(completer, drawn, tokenizer, prompt or PromptSettings(), keep_supports=cut)

    def play(self, items: Sequence[Item], seeds: Sequence[int], groups: Sequence[int]) -> list[Played]:
        """One rollout per item, in order; equal `groups` are samples for one prompt.

        Raises:
            DataError: lists of different length, a greedy draw, or a completer that keeps no log-probabilities.
        """
        if len(groups) != len(items):
            raise DataError(f"{len(items)} items and {len(groups)} groups", place="play")
        talks = self._converse(items, seeds)
        return [
            Played(talk.rollout(f"{item.id}-{seed}", group, self.settings.temperature), _trace(item, talk))
            for item, seed, group, talk in zip(items, seeds, groups, talks, strict=True)
        ]

    def answer(self, items: Sequence[Item], seeds: Sequence[int]) -> list[Trace]:
        """One trace per item, in order, to be judged and not trained on.

        Raises:
            DataError: lists of different length.
        """
        return [_trace(item, talk) for item, talk in zip(items, self._converse(items, seeds), strict=True)]

    def _converse(self, items: Sequence[Item], seeds: Sequence[int]) -> list[Conversation]:
        if len(seeds) != len(items):
            raise DataError(f"{len(items)} items and {len(seeds)} seeds", place="play")
        return converse(self._room, self._script, items, seeds)


def _trace(item: Item, talk: Conversation) -> Trace:
    return Trace(item.id, "\n\n".join(talk.texts), turns=talk.texts)
