"""A second user turn: the ids that stand between an answer as it was drawn and the model's next one.

They close the answer, say the user's words and open the next answer. They are encoded apart from what was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

from rung.records.chat.chatml import ChatMl
from rung.records.chat.frame import Frame
from rung.records.chat.prompting import PromptSettings, prompt_ids
from rung.records.tokenizer import Tokenizer
from rung.records.types import Message

__all__ = ["following_ids", "lead"]


def following_ids(
    tokenizer: Tokenizer, settings: PromptSettings, instruction: str, drawn: Sequence[int] = ()
) -> tuple[int, ...]:
    """Ids to be put after the `drawn` ones; a closing marker that was drawn is not said again.

    Raises:
        DataError: the vocabulary has no markers of the chat format.
    """
    if settings.format == "chatml":
        ids = _after_chatml(tokenizer, instruction)
        return ids[1:] if drawn and drawn[-1] == ids[0] else ids
    closing = f"{Frame.delimiter}\n\n" if settings.format == "frame" else "\n"
    opening = prompt_ids(tokenizer, settings.model_copy(update={"system": ""}), instruction)
    return (*tokenizer.encode(closing), *opening[len(tokenizer.start_ids) :])


def lead(settings: PromptSettings) -> str:
    """What stands between the opening of an answer and its first word."""
    return " " if settings.format == "frame" else ""


def _after_chatml(tokenizer: Tokenizer, instruction: str) -> tuple[int, ...]:
    first = (Message("user", ""),)
    whole = ChatMl.prompt_ids(tokenizer, (*first, Message("assistant", ""), Message("user", instruction)))
    return whole[len(ChatMl.prompt_ids(tokenizer, first)) :]
