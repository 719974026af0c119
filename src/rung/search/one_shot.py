"""One turn: the prompt, and the model's answer to it. The player of tasks that need no tools.

What the engine drew is the rollout, id by id, with the log-probabilities and supports of the distribution that it was
drawn from; the text that is judged is that of the same completion. Nothing is tokenised twice.
"""

from __future__ import annotations

from collections.abc import Sequence

from rung.base.errors import DataError
from rung.records.chat.prompting import PromptSettings, prompt_ids, stop_strings
from rung.records.contracts import Completer, Completion, Item, Request, Sampling, Trace
from rung.records.rollout import Rollout
from rung.records.tokenizer import Tokenizer
from rung.search.played import Played
from rung.search.settings import PlaySettings

__all__ = ["OneShot"]


class OneShot:
    """Plays items with a completer. Results depend on the item and its seed alone, not on what is played beside it."""

    Settings = PlaySettings

    def __init__(
        self, completer: Completer, tokenizer: Tokenizer, prompt: PromptSettings, settings: PlaySettings
    ) -> None:
        self.settings, self._completer = settings, completer
        self._tokenizer, self._prompt = tokenizer, prompt

    def play(self, items: Sequence[Item], seeds: Sequence[int], groups: Sequence[int]) -> list[Played]:
        """One rollout per item, in order; equal `groups` are samples for one prompt.

        Raises:
            DataError: lists of different length, a greedy draw, or a completer that keeps no log-probabilities.
        """
        if len(groups) != len(items):
            raise DataError(f"{len(items)} items and {len(groups)} groups", place="play")
        cut = self.settings.top_p < 1 or self.settings.top_k > 0
        requests = self._requests(items, seeds, keep_supports=cut)
        completions = self._completer.complete(requests)
        return [
            Played(self._rollout(request, group, completion), Trace(item.id, completion.text, completion))
            for item, group, request, completion in zip(items, groups, requests, completions, strict=True)
        ]

    def answer(self, items: Sequence[Item], seeds: Sequence[int]) -> list[Trace]:
        """One answer per item, in order, to be judged and not trained on.

        Raises:
            DataError: lists of different length.
        """
        completions = self._completer.complete(self._requests(items, seeds, keep_supports=False))
        return [Trace(item.id, one.text, one) for item, one in zip(items, completions, strict=True)]

    def _requests(self, items: Sequence[Item], seeds: Sequence[int], *, keep_supports: bool) -> list[Request]:
        if len(seeds) != len(items):
            raise DataError(f"{len(items)} items and {len(seeds)} seeds", place="play")
        own = self.settings
        sampling = Sampling(own.temperature, own.top_p, own.top_k, 1.0, own.max_new_tokens, stop_strings(self._prompt))
        prompts = {text: prompt_ids(self._tokenizer, self._prompt, text) for text in {i.instruction for i in items}}
        return [
            Request(
                f"{item.id}-{seed}", sampling, seed, token_ids=prompts[item.instruction], keep_supports=keep_supports
            )
            for item, seed in zip(items, seeds, strict=True)
        ]

    def _rollout(self, request: Request, group: int, completion: Completion) -> Rollout:
        if len(completion.logprobs) != len(completion.token_ids):
            raise DataError(
                f"{len(completion.token_ids)} tokens and {len(completion.logprobs)} log-probabilities",
                place=f"answer to '{request.id}'",
                hint="a player needs a completer that keeps log-probabilities of what it samples from",
            )
        return Rollout(
            id=request.id,
            group=group,
            prompt_ids=request.token_ids,
            token_ids=completion.token_ids,
            sampled=(True,) * len(completion.token_ids),
            logprobs=completion.logprobs,
            temperature=self.settings.temperature,
            supports=completion.supports,
            entropies=completion.entropies,
            truncated=completion.hit_limit,
        )
