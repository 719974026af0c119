"""A conversation of single turns with a completer, in the frame that rung trains in.

Each question stands alone: the frame has no memory, and what the model was not trained on is not pretended. Answers
come in pieces, so that a slow model is seen working; the pieces continue the same token ids, and text that could still
become a stop string is held back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from rung.base.seeds import derive
from rung.records.chat.frame import Frame
from rung.records.contracts import Completer, Request, Sampling
from rung.records.stop import cut_at_stop, may_become_stop
from rung.records.tokenizer import Tokenizer

__all__ = ["HELP", "Chat", "Manner"]

_PIECE = 12
HELP = """/raw          continue bare text instead of asking in the frame (again: back)
/temperature T   how freely to draw; 0 takes the likeliest token
/tokens N     longest answer
/help         this
/quit         leave"""


@dataclass(frozen=True, slots=True)
class Manner:
    """How to ask: in the frame or bare, how freely to draw, how long at most."""

    raw: bool = False
    temperature: float = 0.0
    max_new_tokens: int = 200
    seed: int = 0


class Chat:
    """Answers questions with `completer`; `tokenizer` is its model's own."""

    def __init__(self, completer: Completer, tokenizer: Tokenizer, manner: Manner) -> None:
        self._completer, self._tokenizer = completer, tokenizer
        self.manner = manner
        self._num_asked = 0

    def answer(self, question: str) -> Iterator[str]:
        """The answer, piece by piece; joined, they are the whole answer without its stop string."""
        manner = self.manner
        prompt = question if manner.raw else Frame.prompt(question)
        stop = () if manner.raw else Frame.stop_strings
        prompt_ids = self._tokenizer.document(prompt)
        drawn: list[int] = []
        shown = 0
        self._num_asked += 1
        while len(drawn) < manner.max_new_tokens:
            size = min(_PIECE, manner.max_new_tokens - len(drawn))
            request = Request(
                id=f"chat-{self._num_asked}-{len(drawn)}",
                sampling=Sampling(temperature=manner.temperature, top_p=0.9, max_new_tokens=size),
                seed=derive(manner.seed, self._num_asked, len(drawn)),
                token_ids=(*prompt_ids, *drawn),
            )
            [completion] = self._completer.complete([request])
            drawn += [t for t in completion.token_ids if t not in self._tokenizer.end_ids]
            text, stopped = cut_at_stop(self._tokenizer.decode(drawn), stop)
            ended = stopped or completion.finish_reason != "length"
            # A character may still be cut in two, and a stop string may still be on its way.
            safe = len(text) if ended else len(text.rstrip("\ufffd")) - may_become_stop(text, stop)
            if safe > shown:
                yield text[shown:safe] if shown else text[:safe].lstrip()
                shown = safe
            if ended:
                return
        text = self._tokenizer.decode(drawn)
        if shown < len(text):
            yield text[shown:]

    def command(self, line: str) -> str:
        """Carry out a line that starts with a slash; returns what to say about it."""
        name, _, value = line[1:].partition(" ")
        if name == "raw":
            self.manner = replace(self.manner, raw=not self.manner.raw)
            return "bare text" if self.manner.raw else "in the frame"
        if name == "temperature":
            return self._set(value, "temperature")
        if name == "tokens":
            return self._set(value, "max_new_tokens")
        return HELP if name == "help" else f"no command /{name}\n{HELP}"

    def _set(self, value: str, field: str) -> str:
        whole = field == "max_new_tokens"
        try:
            number = int(value) if whole else float(value)
        except ValueError:
            return f"not a number: {value!r}"
        if not (1 if whole else 0) <= number < math.inf:
            return f"out of range: {value}"
        values = {**asdict(self.manner), field: number}
        self.manner = Manner(**values)
        return f"{field.replace('_', ' ')} is {number:g}"
