"""One sequence on its way: what was drawn, its text, and whether it is over and why."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rung.base.errors import ModelError
from rung.base.seeds import uniform
from rung.engine.detokenise import Detokeniser
from rung.engine.jobs import Job
from rung.engine.prefixes import Prefix
from rung.engine.steering.watch import Watching
from rung.records.contracts import Completion, FinishReason
from rung.records.rollout import Support
from rung.records.stop import cut_at_stop, may_become_stop
from rung.records.tokenizer import Tokenizer

__all__ = ["Lane", "Row", "Token"]


@dataclass(frozen=True, slots=True)
class Token:
    """A drawn token: the characters that came with it (none while a character is unfinished), where they begin in the
    answer, its log-probability under the unmodified model (None where it is not kept), and the likeliest tokens there
    (none where they were not asked for)."""

    id: int
    text: str
    offset: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a step: the token of `lane` that goes into the model. `known` is the one after it, where that is no
    longer open."""

    lane: Lane
    token: int
    position: int
    known: int | None


class Lane:
    """The state of one running sequence. `pending` are the tokens that are still to go into the model, the first of
    them at `position`: one, and more where a constraint forced text.

    All prompt tokens but the last are in the cache before a lane starts, as its `prefix`; the last goes in with the
    first decode step, so that every drawn token comes from the same batched head.
    """

    def __init__(self, job: Job, tokenizer: Tokenizer, prefix: Prefix | None = None) -> None:
        self.job, self.sampling = job, job.request.sampling
        self.prefix = prefix or Prefix(job.prompt_ids[:-1], 0)
        self.pending, self.position = [job.prompt_ids[-1]], len(job.prompt_ids) - 1
        self.token_ids: list[int] = []
        self.logprobs: list[float] = []
        self.raw_logprobs: list[float] = []
        self.entropies: list[float] = []
        self.top: list[tuple[tuple[int, float], ...]] = []
        self.supports: list[Support | None] = []
        self.finish_reason: FinishReason | None = None
        self._offsets: list[int] = []
        self._end_ids = frozenset(tokenizer.end_ids)
        self._detokeniser = Detokeniser(tokenizer, job.prompt_ids)
        self.state = job.constraint.start() if job.constraint is not None else None
        self.watching = job.watch.start() if job.watch is not None else None
        self._hurried = False
        self._longest_stop = max((len(s) for s in self.sampling.stop), default=0)

    def uniform(self) -> float:
        """The number in [0, 1) that decides the next draw: a function of the request's seed and the step alone."""
        return uniform(self.job.request.seed, len(self.token_ids))

    def seen(self) -> list[int]:
        """Token ids that a repetition penalty acts on."""
        if self.sampling.repetition_penalty == 1.0:
            return []
        return [*self.job.prompt_ids, *(self.token_ids if self.watching is None else self.watching.context)]

    def rows(self, num: int) -> list[Row]:
        """The first `num` of the pending tokens, for a step."""
        following = [*self.pending[1:], None]
        return [Row(self, self.pending[i], self.position + i, following[i]) for i in range(num)]

    @property
    def num_own(self) -> int:
        """Positions of its own part that are in the cache: all before the next token's, but the prefix's."""
        return self.position - len(self.prefix.ids)

    @property
    def remaining(self) -> int:
        """How many tokens may still be drawn."""
        return self.sampling.max_new_tokens - len(self.token_ids)

    @property
    def paused(self) -> bool:
        """Whether it waits for an answer."""
        return self.watching is not None and self.watching.paused is not None

    def allowed(self) -> Tensor | None:
        """Which tokens may be drawn next, bool [V] (V: the vocabulary), on the host; None: all of them."""
        mask_V = self.state.allowed(self.remaining) if self.state is not None else None
        if self.watching is None:
            return mask_V
        needed = self.state.shortest() if self.state is not None else None
        return self.watching.allowed(mask_V, needed is None or needed < self.remaining)

    def fed(self, num: int) -> None:
        """So many of the pending tokens went into the model."""
        del self.pending[:num]
        self.position += num

    def run_ahead(self) -> None:
        """Write the text that the constraint forces from here, but its last token; where it comes near the limit, and
        where the sequence is watched, token by token is safer."""
        if self.finish_reason is not None or self.state is None or self.job.jump is None or self.watching is not None:
            return
        forced, needed = self.state.forced(), self.state.shortest()
        if needed is None or needed + len(forced) >= self.remaining:
            return
        for token in self.job.jump.tokens(forced):
            self._accept(token)

    def take(self, token: int) -> None:
        """Accept a drawn token and find out whether it was the last. Where the sequence is being told something, the
        next token of that is taken in its place, and the draw never was."""
        if self.watching is None:
            self._accept(token)
        elif self.watching.told:
            self._hear(self.watching)
        else:
            self.watching.context.append(token)
            self._accept(token, self.watching.is_mark(token))
            if self.finish_reason is None:
                self.watching.after(len(self.token_ids), token, self.entropies[-1] if self.entropies else None)

    def _hear(self, watching: Watching) -> None:
        for figures in (self.logprobs, self.raw_logprobs, self.entropies, self.top, self.supports):
            del figures[len(self.token_ids) :]
        self.pending.append(watching.hear())

    def _accept(self, token: int, is_mark: bool = False) -> None:
        """A mark is drawn like any token, but it is no part of the text and of what a constraint reads."""
        if self.state is not None and token not in self._end_ids and not is_mark:
            # with no token to spare the limit, and not the model, says how the text goes on
            needed = self.state.shortest()
            self._hurried |= needed is not None and needed >= self.remaining
            self.state.advance(token)
        self.token_ids.append(token)
        self.pending.append(token)
        if token in self._end_ids:
            self._detokeniser.flush()
            self._offsets.append(len(self._detokeniser.text))
            self.finish_reason = "stop" if self._stopped(len(self._detokeniser.text)) else "eos"
            return
        self._offsets.append(len(self._detokeniser.text))
        new = 0 if is_mark else len(self._detokeniser.add(token))
        at_limit = not self.remaining
        over = self._is_over()
        if at_limit or over:
            new += len(self._detokeniser.flush())
        if self._stopped(new) or (over and not self._hurried):
            self.finish_reason = "stop"
        elif at_limit or over:
            self.finish_reason = "length"

    def _is_over(self) -> bool:
        """Whether a constraint lets nothing follow; without a token that ends a text, nothing within the limit."""
        if self.state is None or self.state.over():
            return self.state is not None
        if self._end_ids or not self.remaining or not self.state.complete():
            return False
        try:
            self.state.allowed(self.remaining)
        except ModelError:
            self._hurried = True
            return True
        return False

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
            if any(figures and place >= len(figures) for figures in (self.raw_logprobs, self.top)):
                break  # written ahead of the model, which has not been asked yet
            logprob = self.raw_logprobs[place] if self.raw_logprobs else None
            top = self.top[place] if self.top else ()
            found.append(Token(self.token_ids[place], shown[offset:end], offset, logprob, top))
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
            top=tuple(self.top),
            complete=self.state.complete() if self.state is not None else None,
            supports=tuple(self.supports),
        )
