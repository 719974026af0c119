"""`/v1/completions`: bare text goes on; with `echo` the prompt stands before it, scored where that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rung.app.server.forms import End, Name, Offer, ended, prompt_ids, requests_for, usage_of
from rung.app.server.protocol import CompletionRequest
from rung.app.server.refusals import Refusal
from rung.app.server.shapes import Choice, Finish, Logprobs, Reply
from rung.engine.detokenise import Detokeniser
from rung.engine.lane import Token
from rung.engine.score import Pair
from rung.engine.tickets import News
from rung.records.contracts import Request, Scored
from rung.records.tokenizer import Tokenizer

__all__ = ["Completions"]

_DEFAULT_TOKENS = 16


@dataclass(slots=True)
class _Echo:
    """A prompt as it stands before its answers. `num_hidden` start ids were put in front of what the client gave."""

    text: str
    ids: tuple[int, ...]
    pair: Pair
    num_hidden: int
    tokens: tuple[Token, ...] = ()

    def scored(self, tokenizer: Tokenizer, score: Scored) -> None:
        """Give every token its text and its log-probability, None for those with nothing before them."""
        logprobs = [*([None] * len(self.pair.prompt_ids)), *score.logprobs]
        texts = _texts(tokenizer, self.ids[self.num_hidden :])
        shown, offset = [], 0
        for token, text, logprob in zip(self.ids[self.num_hidden :], texts, logprobs[self.num_hidden :], strict=True):
            shown.append(Token(token, text, offset, logprob))
            offset += len(text)
        self.tokens = tuple(shown)


class Completions:
    """A request to `/v1/completions`; see `rung.app.server.forms.Form`.

    Raises:
        Refusal: 400 or 404.
    """

    def __init__(self, asked: CompletionRequest, offer: Offer) -> None:
        self._asked, self._tokenizer, self._name = asked, offer.intake.tokenizer, Name.new("cmpl")
        prompts = asked.prompts
        if not prompts:
            raise Refusal(400, "invalid_value", "there is no prompt", param="prompt")
        ids = [prompt_ids(offer, prompt) for prompt in prompts]
        max_tokens = _DEFAULT_TOKENS if asked.max_tokens is None else asked.max_tokens
        if not (max_tokens or asked.echo):
            raise Refusal(400, "invalid_value", "max_tokens is 0, so there is nothing to answer", param="max_tokens")
        sampling = asked.sampling(max(1, max_tokens))
        requests = requests_for(asked, offer, ids, [sampling] * len(ids), self._name)
        offer.intake.jobs(requests)
        self.requests: tuple[Request, ...] = requests if max_tokens else ()
        self._sampling = sampling
        self._echoes = [self._echo(*one) for one in zip(prompts, ids, strict=True)] if asked.echo else []
        self.pairs = tuple(echo.pair for echo in self._echoes) if asked.logprobs is not None else ()

    def _echo(self, prompt: str | tuple[int, ...], ids: tuple[int, ...]) -> _Echo:
        start = self._tokenizer.start_ids
        given = self._tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        text = prompt if isinstance(prompt, str) else self._tokenizer.decode(prompt)
        head = max(1, len(start))
        return _Echo(text, ids, Pair(ids[:head], ids[head:]), len(ids) - len(given))

    def scored(self, scores: Sequence[Scored]) -> None:
        """Take the scores of the echoed prompts."""
        for echo, score in zip(self._echoes, scores, strict=True):
            echo.scored(self._tokenizer, score)

    def whole(self, ends: Sequence[End]) -> Reply:
        """All answers."""
        usage = usage_of(ends, self._asked.n or 1, 0 if ends else sum(len(echo.ids) for echo in self._echoes))
        choices = [self._choice(index, end) for index, end in enumerate(ends)]
        return self._reply(choices or self._echoed()).model_copy(update={"usage": usage})

    def opening(self) -> list[Reply]:
        """The echoed prompts."""
        return [self._reply([choice]) for choice in self._echoed()]

    def chunk(self, index: int, news: News) -> Reply:
        """A piece of an answer, with where it stands in the whole text."""
        echo = self._echo_of(index)
        piece = Choice(
            index=index, text=news.text, logprobs=self._logprobs((), news.tokens, len(echo.text) if echo else 0)
        )
        if news.completion is not None:
            piece.finish_reason, piece.stop_reason = ended(news.completion, self._sampling)
        return self._reply([piece])

    def closing(self, ends: Sequence[End]) -> Reply:
        """Token counts."""
        usage = usage_of(ends, self._asked.n or 1, 0 if ends else sum(len(echo.ids) for echo in self._echoes))
        return self._reply([]).model_copy(update={"usage": usage})

    def _reply(self, choices: list[Choice]) -> Reply:
        return Reply(id=self._name.id, created=self._name.created, model=self._asked.model, choices=choices)

    def _echo_of(self, index: int) -> _Echo | None:
        return self._echoes[index // (self._asked.n or 1)] if self._echoes else None

    def _echoed(self) -> list[Choice]:
        """The prompts alone; they end an answer where nothing is drawn."""
        finish: Finish | None = None if self.requests else "length"
        count = len(self._echoes) * (self._asked.n or 1)
        echoes = [(index, echo) for index in range(count) if (echo := self._echo_of(index))]
        return [
            Choice(index=index, text=echo.text, logprobs=self._logprobs(echo.tokens, (), 0), finish_reason=finish)
            for index, echo in echoes
        ]

    def _choice(self, index: int, end: End) -> Choice:
        echo = self._echo_of(index)
        before, tokens = (echo.text, echo.tokens) if echo else ("", ())
        finish, stop = ended(end.completion, self._sampling)
        return Choice(
            index=index,
            text=before + end.completion.text,
            logprobs=self._logprobs(tokens, end.tokens, len(before)),
            finish_reason=finish,
            stop_reason=stop,
        )

    def _logprobs(self, echoed: Sequence[Token], drawn: Sequence[Token], offset: int) -> Logprobs | None:
        if self._asked.logprobs is None:
            return None
        tokens = [*echoed, *drawn]
        return Logprobs(
            tokens=[token.text for token in tokens],
            token_logprobs=[token.logprob for token in tokens],
            text_offset=[*(t.offset for t in echoed), *(offset + t.offset for t in drawn)],
        )


def _texts(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text; an unfinished character's tokens add nothing but the last of them."""
    detokeniser = Detokeniser(tokenizer, ())
    texts = [detokeniser.add(token) for token in ids]
    if texts:
        texts[-1] += detokeniser.flush()
    return texts
