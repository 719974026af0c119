"""A conversation as a request, in the form that a completer takes: chat ids, bare text in the frame, or messages.

Earlier turns reach each of them as turns: in ChatML they have markers of their own, in the frame they are examples, and
a completer of messages gets them as they are. A request that was answered in part can be gone on with, where the
completer continues text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rung.base.errors import DataError
from rung.records.chat.chatml import ChatMl
from rung.records.chat.frame import Frame
from rung.records.chat.prompting import PromptSettings, stop_strings
from rung.records.contracts import Completion, Request, Sampling
from rung.records.tokenizer import Tokenizer
from rung.records.types import Message

__all__ = ["Asking"]


@dataclass(frozen=True)
class Asking:
    """How requests are rendered: with a tokenizer `chatml` becomes ids, without one it stays messages."""

    chat: PromptSettings = field(default_factory=PromptSettings)
    tokenizer: Tokenizer | None = None

    def request(self, name: str, messages: Sequence[Message], sampling: Sampling, seed: int) -> Request:
        """The request that asks for the assistant's next turn.

        Raises:
            DataError: the last turn is not the user's, or earlier ones do not alternate.
        """
        _check(messages)
        drawn = replace(sampling, stop=(*stop_strings(self.chat), *sampling.stop))
        turns = (Message("system", self.chat.system), *messages) if self.chat.system else tuple(messages)
        if self.chat.format == "chatml" and self.tokenizer is not None:
            return Request(name, drawn, seed, token_ids=ChatMl.prompt_ids(self.tokenizer, turns))
        if self.chat.format == "chatml":
            return Request(name, drawn, seed, messages=turns)
        return Request(name, drawn, seed, text=self._text(messages))

    def continued(self, name: str, asked: Request, begun: Completion, sampling: Sampling, seed: int) -> Request:
        """A request that goes on from what was drawn, token by token where ids were asked.

        Raises:
            DataError: `asked` was messages, which nobody can go on from.
        """
        drawn = replace(sampling, stop=asked.sampling.stop)
        if asked.token_ids:
            return Request(name, drawn, seed, token_ids=(*asked.token_ids, *begun.token_ids))
        if asked.text:
            return Request(name, drawn, seed, text=asked.text + begun.raw_text)
        raise DataError("a conversation of messages cannot be gone on with in the middle of an answer", place=name)

    def _text(self, messages: Sequence[Message]) -> str:
        system = f"{self.chat.system}\n" if self.chat.system else ""
        pairs = [(messages[n].content, messages[n + 1].content) for n in range(0, len(messages) - 1, 2)]
        if self.chat.format == "frame":
            return system + Frame.prompt(messages[-1].content, pairs)
        shown = "".join(f"{asked}\n{answered}\n\n" for asked, answered in pairs)
        return f"{system}{shown}{messages[-1].content}\n"


def _check(messages: Sequence[Message]) -> None:
    expected = ["user" if n % 2 == 0 else "assistant" for n in range(len(messages))]
    if len(messages) % 2 == 0 or [message.role for message in messages] != expected:
        raise DataError("turns of user and assistant alternate and end with the user's", place="asking")
