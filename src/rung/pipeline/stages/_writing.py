"""Who writes texts for a stage: the recipe's model, another one by its source, or a completer behind an endpoint.

An instruct model is no clean base model: it writes only where `instruct` says so, and everything downstream records it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rung.base.errors import SettingsError
from rung.base.settings import Field, Settings
from rung.engine.settings import EngineSettings
from rung.pipeline.stage import Context, KnownBy, Outputs, Terms
from rung.pipeline.stages._completer import GeneratingSettings, check_completer, described, known_by, open_outside
from rung.pipeline.stages._model import model_facts, polling, room
from rung.records.chat.asking import Asking
from rung.records.chat.prompting import PromptSettings
from rung.records.contracts import Completer, Sampling

__all__ = ["DrawSettings", "Pen", "WritingSettings", "check_writing", "open_pen", "writer_name", "written_by"]

_INSTRUCT = "the model's guard: a model that follows instructions already writes the texts, on purpose (instruct)"


class DrawSettings(Settings):
    """How texts are drawn."""

    temperature: float = Field(0.7, ge=0, le=2, description="of the sampling")
    top_p: float = Field(0.9, gt=0, le=1, description="of the sampling")
    repetition_penalty: float = Field(1.05, ge=1, le=2, description="of the sampling")
    max_new_tokens: int = Field(200, ge=1, description="limit of one text")
    stop: tuple[str, ...] = Field(("\n#",), description="strings that end a text, beside those of the format")

    @property
    def sampling(self) -> Sampling:
        """As a request has it."""
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            repetition_penalty=self.repetition_penalty,
            max_new_tokens=self.max_new_tokens,
            stop=self.stop,
        )


class WritingSettings(GeneratingSettings):
    """Who writes, and in which format it is asked."""

    model: str = Field("", description="source of the model that writes; empty: the recipe's model")
    instruct: bool = Field(False, description="allow a model that is no clean base model; the bypass is recorded")
    prompt: PromptSettings = Field(PromptSettings(), description="frame: a base model's; chatml: an instruct model's")
    engine: EngineSettings = Field(EngineSettings(keep_logprobs=False, keep_entropies=False), description="its sizes")


@dataclass(frozen=True, slots=True)
class Pen:
    """An opened completer, how it is asked, and what a manifest says of its model."""

    completer: Completer
    asking: Asking
    facts: Mapping[str, Any]


def check_writing(settings: WritingSettings, terms: Terms, continues: bool = False) -> None:
    """Refuse, before any work, a stage without a writer, or one whose writer cannot do what is asked.

    Raises:
        SettingsError: naming the setting.
    """
    about = check_completer(settings, terms, messages=True)
    if about is None and not (settings.model or terms.model):
        raise SettingsError("no model writes", place="model", hint="model: package:NAME, here or for the recipe")
    if about is not None and settings.model:
        raise SettingsError("a completer and a model are both named", place="model", hint="leave one of them out")
    if continues and about is not None and not about.text:
        raise SettingsError(
            f"'{about.able.name}' takes messages only, and this strategy goes on from the middle of a text",
            place="strategy",
            hint="another strategy, or a completer that continues text",
        )


def written_by(settings: WritingSettings) -> KnownBy:
    """The settings without who completes; a named model by what its weights are, an instruct model as a bypass."""
    known = known_by(settings)
    model = room("models.found").find(settings.model, room("models.cache").Cache()).content_id if settings.model else ""
    said = {key: value for key, value in known.settings.items() if key != "model"}
    return KnownBy(said, known.model or model, (*known.bypasses, *((_INSTRUCT,) if settings.instruct else ())))


def writer_name(settings: WritingSettings, context: Context) -> str:
    """Whose texts they are, for a record's source."""
    about = described(settings)
    return about.able.name if about else settings.model or context.model_source


def open_pen(context: Context, outputs: Outputs, settings: WritingSettings) -> Pen:
    """The writer; what was loaded goes into the manifest.

    Raises:
        GuardFailed: an instruct model where `instruct` does not allow it.
        SettingsError, MissingDependency, ProviderFailed, ModelError: it cannot be opened.
    """
    if outside := open_outside(context, settings):
        outputs.note("model", outside.facts)
        return Pen(outside.completer, Asking(_chat_of(outside.completer, settings)), outside.facts)
    loaded = context.models.load(settings.model or context.model_source, clean=not settings.instruct)
    facts = model_facts(loaded)
    outputs.note("model", facts)
    made = room("engine.engine").Engine(loaded, settings.engine, events=context.events, on_step=polling(context))
    return Pen(made, Asking(settings.prompt, loaded.tokenizer), facts)


def _chat_of(completer: Completer, settings: WritingSettings) -> PromptSettings:
    """An endpoint that takes messages gets them; another one is asked in the frame, for its template is unknown."""
    takes = completer.capabilities().messages
    if settings.prompt.format == "chatml" and not takes:
        return settings.prompt.model_copy(update={"format": "frame"})
    return settings.prompt
