"""How an instruction becomes the ids that a model reads, said in settings: which format, and which system turn.

A base model gets the frame, an instruct model the chat format that it was trained on. The wrong one lowers what a
model seems to be able to do, and training then "gains" what the right one would have given at once (arXiv 2503.20783).
"""

from __future__ import annotations

from typing import Literal

from rung.base.settings import Field, Settings
from rung.records.chat.chatml import ChatMl
from rung.records.chat.frame import Frame, Rendered
from rung.records.tokenizer import Tokenizer
from rung.records.types import Message

__all__ = ["PromptSettings", "example_of", "prompt_ids", "stop_strings"]


class PromptSettings(Settings):
    """The format, and what stands before the instruction."""

    format: Literal["frame", "chatml", "raw"] = Field(
        "frame", description="frame: a base model's; chatml: an instruct model's; raw: the instruction and a line break"
    )
    system: str = Field("", description="text of the system turn (chatml), or of a line before it all; empty: none")


def prompt_ids(tokenizer: Tokenizer, settings: PromptSettings, instruction: str) -> tuple[int, ...]:
    """Ids of the prompt, the model's start token(s) first.

    Raises:
        DataError: the vocabulary has no markers of the chat format.
    """
    if settings.format == "chatml":
        return ChatMl.prompt_ids(tokenizer, _messages(settings, instruction))
    before = f"{settings.system}\n" if settings.system else ""
    text = Frame.prompt(instruction) if settings.format == "frame" else f"{instruction}\n"
    return tuple(tokenizer.document(before + text))


def stop_strings(settings: PromptSettings) -> tuple[str, ...]:
    """Texts that end an answer in this format; a chat format and raw text end with the model's end token."""
    return Frame.stop_strings if settings.format == "frame" else ()


def example_of(tokenizer: Tokenizer, settings: PromptSettings, instruction: str, response: str) -> Rendered:
    """A training example in the very format that is sampled with; loss on the response and what ends it.

    Raises:
        DataError: the vocabulary has no markers of the chat format.
    """
    if settings.format == "chatml":
        messages = (*_messages(settings, instruction), Message("assistant", response))
        return ChatMl.render(tokenizer, messages)
    opening = prompt_ids(tokenizer, settings, instruction)
    text = Frame.completion(response) if settings.format == "frame" else response
    said = [*tokenizer.encode(text), *tokenizer.end_ids[:1]]
    return Rendered((*opening, *said), (*[False] * len(opening), *[True] * len(said)), len(opening))


def _messages(settings: PromptSettings, instruction: str) -> tuple[Message, ...]:
    system = (Message("system", settings.system),) if settings.system else ()
    return (*system, Message("user", instruction))
