"""One sequence on its way: what was drawn, its text, and whether it is over and why."""

from __future__ import annotations

from dataclasses import dataclass

from rung.base.seeds import uniform
from rung.engine.detokenise import Detokeniser
from rung.engine.jobs import Job
from rung.records.contracts import Completion, FinishReason
from rung.records.stop import cut_at_stop, may_become_stop
from rung.records.tokenizer import Tokenizer

__all__ = ["Lane", "Token"]


@dataclass(frozen=True, slots=True)
class Token:
    """A drawn token: the characters that came with it (none while a character is unfinished), where they begin in the
    answer, and its log-probability under the unmodified model (None where it is not kept)."""

    id: int
    text: str
    offset: int
    logprob: float | None


class Lane:
    """The state of one running sequence. The token at `position` is `token`, and it is the next to go into the model.

    All prompt tokens but the last are in the cache before a lane starts; the last goes in with the first decode step,
    so that every drawn token comes from the same batched head.
    """

    def __init__(self, job: Job, tokenizer: Tokenizer) -> None:
        self.job, self.sampling = job, job.request.sampling
        self.token, self.position = job.prompt_ids[-1], len(job.prompt_ids) - 1
        self.token_ids: list[int] = []
        self.logprobs: list[float] = []
        self.raw_logprobs: list[float] = []
        self.entropies: list[float] = []
        self.finish_reason: FinishReason | None = None
        self._offsets: list[int] = []
        self._end_ids = frozenset(tokenizer.end_ids)
        self._detokeniser = Detokeniser(tokenizer, job.prompt_ids)
        self._longest_stop = max((len(s) for s in self.sampling.stop), default=0)

    def uniform(self) -> float:
        """The number in [0, 1) that decides the next draw: a function of the request's seed and the step alone."""
        return uniform(self.job.request.seed, len(self.token_ids))

    def seen(self) -> list[int]:
        """Token ids that a repetition penalty acts on."""
        return [*self.job.prompt_ids, *self.token_ids] if self.sampling.repetition_penalty != 1.0 else []

    def take(self, token: int) -> None:
        """Accept a drawn token and find out whether it was the last."""
        self.token_ids.append(token)
        self.token, self.position = token, self.position + 1
        if token in self._end_ids:
            self._detokeniser.flush()
            self._offsets.append(len(self._detokeniser.text))
            self.finish_reason = "stop" if self._stopped(len(self._detokeniser.text)) else "eos"
            return
        self._offsets.append(len(self._detokeniser.text))
        new = len(self._detokeniser.add(token))
        at_limit = len(self.token_ids) >= self.sampling.max_new_tokens
        if at_limit:
            new += len(self._detokeniser.flush())
        if self._stopped(new):
            self.finish_reason = "stop"
        elif at_limit:
            self.finish_reason = "length"

    def _stopped(self, num_new: int) -> bool:
        """Whether a stop string ends within the last `num_new` characters; it may have begun before them."""
        if not num_new or not self._longest_stop:
            return False
        return cut_at_stop(self._detokeniser.text[-(num_new + self._longest_stop - 1) :], self.sampling.stop)[1]

    def shown(self) -> str:
        """Text that no later token takes back: without what may become a stop string, and at the end all of it."""
        if self.finish_reason is not None:
            return self.completion().text
        text = self._detokeniser.text
        return text[: len(text) - may_become_stop(text[-self._longest_stop :], self.sampling.stop)]

    def tokens(self, start: int, shown: str) -> tuple[Token, ...]:
        """Tokens from number `start` on that make up `shown`. One that reaches beyond it waits for the rest, and is cut
        at the end: end tokens and stop strings are no part of an answer."""
        offsets, last = self._offsets, len(self.token_ids) - 1
        found = []
        for place in range(start, last + 1):
            offset, end = offsets[place], offsets[place + 1] if place < last else len(self._detokeniser.text)
            if offset >= len(shown) or (end > len(shown) and self.finish_reason is None):
                break
            logprob = self.raw_logprobs[place] if self.raw_logprobs else None
            found.append(Token(self.token_ids[place], shown[offset:end], offset, logprob))
        return tuple(found)

    def completion(self) -> Completion:
        """The finished sequence."""
        assert self.finish_reason is not None
        raw_text = self._detokeniser.text + self._detokeniser.flush()
        return Completion(
            id=self.job.request.id,
            text=cut_at_stop(raw_text, self.sampling.stop)[0],
            raw_text=raw_text,
            token_ids=tuple(self.token_ids),
            finish_reason=self.finish_reason,
            num_prompt_tokens=len(self.job.prompt_ids),
            logprobs=tuple(self.logprobs),
            raw_logprobs=tuple(self.raw_logprobs),
            entropies=tuple(self.entropies),
        )
