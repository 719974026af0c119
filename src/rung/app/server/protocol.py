"""What may be asked: the fields of OpenAI's completions and chat completions that rung can keep, and three of its own
(`top_k`, `repetition_penalty`, `constraint`). A field without effect is not known, and an unknown field is refused."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import pydantic

from rung.app.server.refusals import Refusal
from rung.base.settings import Field, Settings, nearest
from rung.records.contracts import Sampling

__all__ = ["ChatMessage", "ChatRequest", "CompletionRequest", "Drawing", "ResponseFormat", "SchemaGiven", "read"]

_CODES = {"extra_forbidden": "unknown_field", "missing": "missing_field", "json_invalid": "invalid_json"}


class StreamOptions(Settings):
    """What a stream brings besides text."""

    include_usage: bool = Field(False, description="a last chunk with the token counts")


class SchemaGiven(Settings):
    """A JSON Schema, as OpenAI's clients wrap it."""

    name: str = Field("", description="what the client calls it; it changes nothing")
    schema_: Any = Field(alias="schema", description="the schema")
    strict: bool | None = Field(None, description="taken for true whatever it says: a schema is always obeyed")


class ResponseFormat(Settings):
    """What an answer must be."""

    type: Literal["text", "json_object", "json_schema"] = Field(description="free text, an object, or by a schema")
    json_schema: SchemaGiven | None = Field(None, description="goes with its type only")

    @pydantic.model_validator(mode="after")
    def _schema_where_it_belongs(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema goes with the type json_schema, and only with it")
        return self

    @property
    def constraint(self) -> dict[str, Any] | None:
        """The same as the engine takes it."""
        if self.json_schema is not None:
            return {"json_schema": self.json_schema.schema_}
        return {"json": "object"} if self.type == "json_object" else None


class Drawing(Settings):
    """What both endpoints have: how to draw, how often, how to answer."""

    model_config = pydantic.ConfigDict(strict=True)

    model: str = Field(description="the served model, as /v1/models names it")
    temperature: float | None = Field(None, ge=0, le=5, description="0 takes the likeliest token; none is 1")
    top_p: float | None = Field(None, gt=0, le=1, description="share of probability drawn from; none is 1 (off)")
    top_k: int = Field(0, ge=0, le=1 << 20, description="draw from so many likeliest tokens; 0 is off")
    repetition_penalty: float = Field(1.0, ge=0.1, le=10, description="divides the scores of seen tokens; 1 is off")
    max_tokens: int | None = Field(None, ge=0, description="new tokens at most")
    n: int | None = Field(None, ge=1, description="answers to each prompt; none is one")
    seed: int | None = Field(None, description="decides every draw; none draws one")
    stop: str | tuple[str, ...] | None = Field(None, description="the text ends right before the first of these")
    response_format: ResponseFormat | None = Field(None, description="JSON, any or by a schema; always obeyed")
    constraint: dict[str, Any] | None = Field(
        None, description="what the text must obey, as one kind and its rule, such as {'regex': '[0-9]+'}"
    )
    stream: bool | None = Field(None, description="server-sent events instead of one object")
    stream_options: StreamOptions | None = Field(None, description="only together with stream")

    @pydantic.field_validator("temperature")
    @classmethod
    def _not_all_but_zero(cls, value: float | None) -> float | None:
        if value is not None and 0 < value < _COLDEST:
            raise ValueError(f"must be 0 or at least {_COLDEST}: below that the logits overflow")
        return value

    @pydantic.model_validator(mode="after")
    def _one_rule(self) -> Drawing:
        if self.constraint is not None and self.response_format is not None:
            raise ValueError("constraint and response_format are both given")
        return self

    @property
    def rule(self) -> dict[str, Any] | None:
        """What the text must obey, as the engine takes it."""
        return self.response_format.constraint if self.response_format is not None else self.constraint

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """`stop` as the engine takes it."""
        return (self.stop,) if isinstance(self.stop, str) else self.stop or ()

    def sampling(self, max_new_tokens: int, own_stops: tuple[str, ...] = ()) -> Sampling:
        """The engine's settings; `own_stops` come on top of the client's, but not where a rule ends the text."""
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=self.top_k,
            repetition_penalty=self.repetition_penalty,
            max_new_tokens=max_new_tokens,
            stop=(*(() if self.rule is not None else own_stops), *self.stop_strings),
        )


class CompletionRequest(Drawing):
    """`/v1/completions`: bare text goes on."""

    prompt: str | tuple[int, ...] | tuple[str, ...] | tuple[tuple[int, ...], ...] = Field(
        description="text, token ids, or a list of either"
    )
    echo: bool | None = Field(None, description="the prompt stands before its answer, with its log-probabilities too")
    logprobs: int | None = Field(
        None, ge=0, le=1, description="log-probabilities of the tokens; alternatives are not kept, so at most 1"
    )

    @property
    def prompts(self) -> list[str | tuple[int, ...]]:
        """`prompt` as a list."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and all(isinstance(one, int) for one in self.prompt):
            return [tuple(one for one in self.prompt if isinstance(one, int))]
        return [one for one in self.prompt if not isinstance(one, int)]


class ChatMessage(Settings):
    """One turn."""

    role: str = Field(description="user or assistant")
    content: str = Field(description="its text")


class ChatRequest(Drawing):
    """`/v1/chat/completions`: questions and answers in the frame that rung trains in."""

    messages: tuple[ChatMessage, ...] = Field(min_length=1, description="turns of user and assistant, a user's last")
    max_completion_tokens: int | None = Field(None, ge=1, description="another name of max_tokens, which it outranks")
    logprobs: bool | None = Field(None, description="log-probabilities of the tokens; alternatives are not kept")


_COLDEST = 0.001
_INNER: dict[str, type[Settings]] = {
    "stream_options": StreamOptions,
    "messages": ChatMessage,
    "response_format": ResponseFormat,
}
D = TypeVar("D", bound=Drawing)


def read(model: type[D], body: bytes) -> D:
    """The request in `body`.

    Raises:
        Refusal: 400; an unknown field comes with the nearest known one, and no value is repeated.
    """
    try:
        asked = model.model_validate_json(body)
    except pydantic.ValidationError as error:
        raise _refusal(model, error.errors(include_url=False, include_input=False)[0]) from None
    if asked.stream_options is not None and not asked.stream:
        raise Refusal(400, "invalid_value", "stream_options goes with stream only", param="stream_options")
    return asked


def _refusal(model: type[Drawing], problem: Any) -> Refusal:
    path = [str(part) for part in problem["loc"]]
    place = ".".join(path[:1] if problem["type"] != "extra_forbidden" else path) or None
    code = _CODES.get(problem["type"], "invalid_value")
    if code == "unknown_field":
        known = nearest(path[-1], list((_INNER.get(path[0], model) if len(path) > 1 else model).model_fields))
        return Refusal(400, code, f"unknown field '{path[-1]}': {known}", param=place)
    if code == "missing_field":
        return Refusal(400, code, f"the field '{'.'.join(path)}' is required", param=place)
    return Refusal(400, code, f"{place or 'the body'}: {problem['msg']}", param=place)
