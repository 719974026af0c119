"""Sample texts at each evaluation of a training: a listener to the loop's events that lets the engine write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rung.base.events import Events
from rung.base.seeds import derive
from rung.base.settings import Field, Settings
from rung.engine.settings import EngineSettings
from rung.evaluate.sample_texts import sample_figures
from rung.pipeline.stage import Context, Outputs
from rung.pipeline.stages._model import polling, room
from rung.records.contracts import Completion, Request, Sampling
from rung.records.tokenizer import Tokenizer
from rung.records.types import Document

__all__ = ["Held", "SampleSettings", "Samples", "watched"]


class SampleSettings(Settings):
    """What is sampled while a model trains."""

    prompts: tuple[str, ...] = Field(("",), description="what each text goes on from; an empty one starts a document")
    count: int = Field(2, ge=1, le=64, description="texts for each prompt")
    max_new_tokens: int = Field(96, ge=1, description="tokens of one text, at most")
    temperature: float = Field(0.8, ge=0, le=2, description="of the draws; 0 takes the likeliest token")
    top_p: float = Field(0.95, gt=0, le=1, description="share of the probability that is drawn from")
    python: bool = Field(False, description="whether the texts shall be Python: the share that parses is a figure")


@dataclass(frozen=True)
class Held:
    """A network in training as the engine takes one."""

    network: Any
    tokenizer: Tokenizer
    source: str = "in training"
    clean: bool = True


class Samples:
    """Writes a round of samples as a shard of the output `sample`, with their figures in the events.

    The seeds of the draws follow from the stage's seed and the prompt, not from the step: rounds can be compared.
    """

    def __init__(self, context: Context, outputs: Outputs, held: Held, settings: SampleSettings) -> None:
        self._context, self._outputs, self._held, self._settings = context, outputs, held, settings
        num_texts = len(settings.prompts) * settings.count
        self._engine = room("engine.engine").Engine(held, EngineSettings(num_slots=num_texts), on_step=polling(context))

    def __call__(self, step: int, index: int) -> None:
        """Round `index`, with the weights as they are now."""
        network = self._held.network
        with room("train.update").without_dropout(network), room("models.fp8").exact(network):
            completions = self._write()
        texts = [c.text for c in completions]
        ended = [c.finish_reason == "eos" for c in completions]
        figures = sample_figures(texts, ended, python=self._settings.python)
        for name, value in figures.items():
            self._context.events.metric(f"pretrain/sample_{name}", value, step)
        self._outputs.shard("sample", index, [self._record(c, step, figures) for c in completions])

    def _write(self) -> list[Completion]:
        s = self._settings
        sampling = Sampling(temperature=s.temperature, top_p=s.top_p, max_new_tokens=s.max_new_tokens)
        start = self._held.tokenizer.start_ids
        requests = [
            Request(
                f"{number}-{copy}",
                sampling,
                seed=derive(self._context.seed, "sample", number, copy),
                token_ids=(*start, *self._held.tokenizer.encode(prompt)),
            )
            for number, prompt in enumerate(s.prompts)
            for copy in range(s.count)
        ]
        done: list[Completion] = self._engine.complete(requests)
        self._engine.release()
        return done

    def _record(self, completion: Completion, step: int, figures: dict[str, float]) -> Document:
        prompt = self._settings.prompts[int(completion.id.partition("-")[0])]
        meta = {"step": step, "prompt": prompt, "finish_reason": completion.finish_reason, "round": figures}
        return Document(f"{step}-{completion.id}", completion.text, self._context.name, meta=meta)


class _Listener:
    """Passes events on and calls back at each loss on what is held out."""

    def __init__(self, events: Events, metric: str, call: Callable[[int, float], None]) -> None:
        self._events, self._metric, self._call = events, metric, call

    def handle(self, event: dict[str, Any]) -> None:
        """Pass it on first."""
        self._events.relay(event)
        if event["kind"] == "metric" and event["name"] == self._metric:
            self._call(event["step"], event["value"])

    def close(self) -> None:
        """Nothing is held."""


def watched(events: Events, metric: str, call: Callable[[int, float], None]) -> Events:
    """Events like these, whose metric of that name is also told to `call` as (step, value)."""
    return Events([_Listener(events, metric, call)])
