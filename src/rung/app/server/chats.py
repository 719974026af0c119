"""`/v1/chat/completions`: questions in the frame that rung trains in, with earlier turns as its worked examples."""

from __future__ import annotations

from collections.abc import Sequence

from rung.app.server.forms import End, Name, Offer, ended, prompt_ids, requests_for, usage_of
from rung.app.server.protocol import ChatMessage, ChatRequest
from rung.app.server.refusals import Refusal
from rung.app.server.shapes import (
    ChatChoice,
    ChatChunk,
    ChatDelta,
    ChatLogprobs,
    ChatPiece,
    ChatReply,
    ChatSaid,
    ChatToken,
)
from rung.engine.lane import Token
from rung.engine.score import Pair
from rung.engine.tickets import News
from rung.records.chat.frame import Frame
from rung.records.contracts import Scored

__all__ = ["Chats", "framed"]


class Chats:
    """A request to `/v1/chat/completions`; see `rung.app.server.forms.Form`.

    Raises:
        Refusal: 400 or 404.
    """

    def __init__(self, asked: ChatRequest, offer: Offer) -> None:
        self._asked, self._name = asked, Name.new("chatcmpl")
        ids = prompt_ids(offer, framed(asked.messages))
        wanted = asked.max_completion_tokens if asked.max_completion_tokens is not None else asked.max_tokens
        if wanted == 0:
            raise Refusal(400, "invalid_value", "max_tokens is 0, so there is nothing to answer", param="max_tokens")
        room = offer.intake.max_context - len(ids) if offer.intake.max_context else offer.limits.new_tokens
        max_tokens = wanted or max(1, min(room, offer.limits.new_tokens))
        self._sampling = asked.sampling(max_tokens, Frame.stop_strings)
        self.requests = requests_for(asked, offer, [ids], [self._sampling], self._name)
        offer.intake.jobs(self.requests)
        self.pairs: tuple[Pair, ...] = ()
        self._begun: set[int] = set()

    def scored(self, scores: Sequence[Scored]) -> None:
        """A chat has no pairs to score."""

    def whole(self, ends: Sequence[End]) -> ChatReply:
        """All answers."""
        return ChatReply(
            id=self._name.id,
            created=self._name.created,
            model=self._asked.model,
            choices=[self._choice(index, end) for index, end in enumerate(ends)],
            usage=usage_of(ends, self._asked.n or 1),
        )

    def opening(self) -> list[ChatChunk]:
        """Who speaks."""
        speaker = ChatDelta(role="assistant")
        return [self._chunk([ChatPiece(index=index, delta=speaker)]) for index in range(len(self.requests))]

    def chunk(self, index: int, news: News) -> ChatChunk:
        """A piece of an answer; the space that the frame puts before it is no part of it."""
        text = news.text if index in self._begun else news.text.lstrip()
        if text:
            self._begun.add(index)
        piece = ChatPiece(index=index, delta=ChatDelta(content=text), logprobs=self._logprobs(news.tokens))
        if news.completion is not None:
            piece.finish_reason, piece.stop_reason = ended(news.completion, self._sampling)
        return self._chunk([piece])

    def closing(self, ends: Sequence[End]) -> ChatChunk:
        """Token counts."""
        return self._chunk([]).model_copy(update={"usage": usage_of(ends, self._asked.n or 1)})

    def _chunk(self, pieces: list[ChatPiece]) -> ChatChunk:
        return ChatChunk(id=self._name.id, created=self._name.created, model=self._asked.model, choices=pieces)

    def _choice(self, index: int, end: End) -> ChatChoice:
        finish, stop = ended(end.completion, self._sampling)
        return ChatChoice(
            index=index,
            message=ChatSaid(content=end.completion.text.lstrip()),
            logprobs=self._logprobs(end.tokens),
            finish_reason=finish,
            stop_reason=stop,
        )

    def _logprobs(self, tokens: Sequence[Token]) -> ChatLogprobs | None:
        if not self._asked.logprobs:
            return None
        return ChatLogprobs(
            content=[
                ChatToken(token=token.text, logprob=token.logprob, bytes=list(token.text.encode()))
                for token in tokens
                if token.logprob is not None
            ]
        )


def framed(messages: Sequence[ChatMessage]) -> str:
    """The frame with earlier question and answer pairs as worked examples, and the last question to be answered.

    Raises:
        Refusal: 400; turns that the frame has no place for.
    """
    for place, message in enumerate(messages):
        wanted = "assistant" if place % 2 else "user"
        if message.role != wanted:
            raise _unframed(f"message {place} is of the role '{message.role}', {wanted}'s turn is expected")
    if messages[-1].role != "user":
        raise _unframed("the last message must be a user's, for it is answered")
    turns = [message.content for message in messages]
    return Frame.prompt(turns[-1], list(zip(turns[:-1:2], turns[1:-1:2], strict=True)))


def _unframed(message: str) -> Refusal:
    hint = "the frame that this model is trained in knows users' and assistants' turns only, one after the other"
    return Refusal(400, "unsupported_messages", f"{message}; {hint}", param="messages")
