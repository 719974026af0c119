"""ChatML, the chat format of SmolLM2-Instruct, Qwen and others: `<|im_start|>role`, the text, `<|im_end|>`.

Ids and mask are made together and without the tokenizer's template, which the loader takes off. Markers are put in by
their ids; a marker that stands in somebody's text is spelt out as plain characters, so no text can open or close a
turn. Of a rendered conversation the assistant's words and the marker that closes them are trained, nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

from rung.base.errors import DataError
from rung.records.chat.frame import Rendered
from rung.records.tokenizer import Tokenizer
from rung.records.types import Message

__all__ = ["ChatMl"]

_START, _END = "<|im_start|>", "<|im_end|>"


class ChatMl:
    """The format as an object. A system turn is written when there is one; none is made up."""

    name = "chatml"
    stop_strings: tuple[str, ...] = ()

    @classmethod
    def prompt_ids(cls, tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[int, ...]:
        """Ids of the conversation so far, start token(s) first, and the opening of the assistant's next turn.

        Raises:
            DataError: the vocabulary has no ChatML markers.
        """
        start, end = _markers(tokenizer)
        ids = list(tokenizer.start_ids)
        for message in messages:
            ids += [start, *_plain(tokenizer, f"{message.role}\n{message.content}"), end, *_plain(tokenizer, "\n")]
        return (*ids, start, *_plain(tokenizer, "assistant\n"))

    @classmethod
    def render(cls, tokenizer: Tokenizer, messages: Sequence[Message]) -> Rendered:
        """Ids and mask of a conversation; it ends where its last assistant turn is closed.

        Raises:
            DataError: no turn is the assistant's, the last one is not, or the vocabulary has no ChatML markers.
        """
        if not messages or messages[-1].role != "assistant":
            raise DataError("a training conversation ends with the assistant's turn", place="chatml")
        end = _markers(tokenizer)[1]
        ids: list[int] = []
        mask: list[bool] = []
        num_prompt = 0
        for place, message in enumerate(messages):
            if message.role != "assistant":
                continue
            opening = cls.prompt_ids(tokenizer, messages[:place])
            # what was said before stays as it is in the ids: only what is new since then is added
            mask += [False] * (len(opening) - len(ids))
            ids += opening[len(ids) :]
            num_prompt = num_prompt or len(ids)
            said = [*_plain(tokenizer, message.content), end]
            ids, mask = [*ids, *said], [*mask, *[True] * len(said)]
        return Rendered(tuple(ids), tuple(mask), num_prompt)


def _markers(tokenizer: Tokenizer) -> tuple[int, int]:
    start, end = (tokenizer.inner.token_to_id(marker) for marker in (_START, _END))
    if start is None or end is None:
        raise DataError(
            f"the vocabulary has no {_START} and {_END}",
            place="chatml",
            hint="use the format that the model was trained on: frame for a base model",
        )
    return start, end


def _plain(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text in which nothing counts as a marker."""
    inner = tokenizer.inner
    before, inner.encode_special_tokens = inner.encode_special_tokens, True
    try:
        return tokenizer.encode(text)
    finally:
        inner.encode_special_tokens = before
