"""What is answered, in OpenAI's shapes; `stop_reason` is added as other open servers do: the stop string that ended the
text, null where the model's end token or the limit did."""

from __future__ import annotations

from typing import Literal

import pydantic

__all__ = [
    "ChatChoice",
    "ChatChunk",
    "ChatDelta",
    "ChatLogprobs",
    "ChatPiece",
    "ChatReply",
    "ChatSaid",
    "ChatToken",
    "Choice",
    "Finish",
    "Logprobs",
    "ModelCard",
    "ModelList",
    "Reply",
    "Usage",
]

Finish = Literal["stop", "length"]


class Usage(pydantic.BaseModel):
    """Tokens: prompts counted once each with their start tokens, answers with their end tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Logprobs(pydantic.BaseModel):
    """One entry per token; `token_logprobs` is null where nothing comes before a token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    text_offset: list[int]
    top_logprobs: None = None


class Choice(pydantic.BaseModel):
    """One answer of `/v1/completions`, or a piece of it."""

    index: int
    text: str
    logprobs: Logprobs | None = None
    finish_reason: Finish | None = None
    stop_reason: str | None = None


class Reply(pydantic.BaseModel):
    """`/v1/completions`, whole or a chunk of it."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = None


class ChatToken(pydantic.BaseModel):
    """A token of a chat's answer."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[None] = []


class ChatLogprobs(pydantic.BaseModel):
    """The tokens of an answer."""

    content: list[ChatToken]


class ChatSaid(pydantic.BaseModel):
    """The model's turn."""

    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(pydantic.BaseModel):
    """One whole answer of `/v1/chat/completions`."""

    index: int
    message: ChatSaid
    logprobs: ChatLogprobs | None = None
    finish_reason: Finish
    stop_reason: str | None = None


class ChatReply(pydantic.BaseModel):
    """`/v1/chat/completions`, whole."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ChatDelta(pydantic.BaseModel):
    """What a chunk adds to the model's turn."""

    role: Literal["assistant"] | None = None
    content: str = ""


class ChatPiece(pydantic.BaseModel):
    """A piece of one answer."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: Finish | None = None
    stop_reason: str | None = None


class ChatChunk(pydantic.BaseModel):
    """`/v1/chat/completions`, a chunk of it."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatPiece]
    usage: Usage | None = None


class ModelCard(pydantic.BaseModel):
    """The served model; `max_model_len` is its context in tokens, 0 where unlimited."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["rung"] = "rung"
    max_model_len: int


class ModelList(pydantic.BaseModel):
    """`/v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
