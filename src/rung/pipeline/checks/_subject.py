"""What the audit looks at: the pipeline's own callables on one model and its data, held as fields.

A check calls what a run would call, never a copy of it; a test plants a bug by putting another callable into a field.
Rooms that bring torch are opened when a subject is built, so that naming the checks costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rung.base.settings import Settings
from rung.datagen.generators.responses import Responses
from rung.datagen.pool import Pool, load_pool
from rung.engine.settings import EngineSettings
from rung.pipeline.checks._policy_path import PolicyPath, policy_path
from rung.pipeline.stages._answering import CONDITIONS
from rung.pipeline.stages._model import room
from rung.records.chat.frame import Frame, Rendered
from rung.records.contracts import Completer
from rung.records.packing import DataReport, Example, PackedRow, check_examples, pack, step_indices
from rung.records.scripted import Scripted
from rung.records.tokenizer import Tokenizer
from rung.records.types import Instruction, SftRecord, TestItem
from rung.train.settings import AdapterSettings, SftSettings

if TYPE_CHECKING:
    from rung.models.load import Loaded
    from rung.models.network import Attend, Network

__all__ = ["AdapterPath", "Exchange", "Stored", "Subject", "TextPath", "TrainingPath", "from_pool", "from_records"]

Cut = Callable[[Sequence[Example], int, Sequence[int]], tuple[tuple[Example, ...], DataReport]]
_NUM_SLOTS = 4
_LONGEST = 200  # tokens of an example that the model is run on, where there are enough shorter ones


@dataclass(frozen=True, slots=True)
class Stored:
    """What a finished data stage wrote down about a record: the strings training sees, the prompt that was sent when
    the response was generated, and the length of the response in tokens."""

    training_prompt: str
    completion: str
    sent_prompt: str
    num_response_tokens: int


@dataclass(frozen=True, slots=True)
class Exchange:
    """An instruction with its response; `stored` when it comes from a finished stage."""

    id: str
    instruction: str
    response: str
    stored: Stored | None = None


@dataclass(frozen=True)
class TextPath:
    """From strings to ids. `prompts` maps every place that asks with one instruction and no examples to its prompt
    ("training" is the one that the others must equal); `prompt_ids` is what the engine makes of a text."""

    render: Callable[[Tokenizer, str, str], Rendered]
    completion: Callable[[str], str]
    delimiter: str
    stop_strings: tuple[str, ...]
    prompts: Mapping[str, Callable[[str], str]]
    few_shot_prompt: Callable[[str], str]
    prompt_ids: Callable[[Tokenizer, str], tuple[int, ...]]
    cut: Cut


@dataclass(frozen=True)
class TrainingPath:
    """From ids to gradients. `loss` is nats per trained token of some rows, `accumulate` adds their gradient. `order`
    is what a process that starts, or resumes, asks which examples a step reads: (examples, per step, seed, step).
    `curriculum` is all steps of an order from easy to hard: (difficulties, per step, epochs, seed)."""

    pack: Callable[[Sequence[Example], int], tuple[PackedRow, ...]]
    attend: Callable[[Sequence[Sequence[int]]], Attend]
    objective: Any
    loss: Callable[[Network, Sequence[PackedRow], Any], float]
    accumulate: Callable[[Network, Sequence[PackedRow], Any], float]
    order: Callable[[], Callable[[int, int, int, int], Sequence[int]]]
    curriculum: Callable[[Sequence[float], int, int, int], Sequence[Sequence[int]]]


@dataclass(frozen=True)
class AdapterPath:
    """The life of an adapter: put on fresh, saved, attached elsewhere, merged into the weights."""

    settings: AdapterSettings
    prepare: Callable[[Network, AdapterSettings, int], Any]
    save: Callable[[Network, Any], None]
    attach: Callable[[Network, Any], None]
    merge: Callable[[Network], None]


@dataclass(frozen=True)
class Subject:
    """One model with its data and the callables of the pipeline. `origin` says where the exchanges come from, `cached`
    holds token ids as they follow from what is stored (a resumed run's), `max_tokens` is training's limit."""

    loaded: Loaded
    exchanges: tuple[Exchange, ...]
    origin: str
    held_out: tuple[TestItem, ...]
    settings_classes: tuple[type[Settings], ...]
    max_tokens: int
    text: TextPath
    training: TrainingPath
    adapters: AdapterPath
    policy: PolicyPath
    engine: Callable[[Loaded], Completer]
    cached: tuple[Example, ...] = ()

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's."""
        return self.loaded.tokenizer

    @cached_property
    def rendered(self) -> tuple[Example, ...]:
        """Every exchange as training would see it, uncut."""
        render = self.text.render
        return tuple(Example(e.id, render(self.tokenizer, e.instruction, e.response)) for e in self.exchanges)

    def few(self, count: int) -> list[tuple[Exchange, Example]]:
        """Up to `count` exchanges of lengths as unequal as short ones allow, the longest first."""
        pairs = zip(self.exchanges, self.rendered, strict=True)
        ranked = sorted(pairs, key=lambda pair: (len(pair[1].rendered.token_ids), pair[0].id))
        short = [pair for pair in ranked if len(pair[1].rendered.token_ids) <= _LONGEST]
        pool = short if len(short) >= count else ranked[: max(count, len(short))]
        last, steps = len(pool) - 1, max(count - 1, 1)
        places = sorted({round(i * last / steps) for i in range(min(count, len(pool)))}, reverse=True)
        return [pool[place] for place in places]


def from_records(loaded: Loaded, records: Sequence[SftRecord], origin: str = "records", **fields: Any) -> Subject:
    """The subject over finished records: what they store is checked too. `fields` are as in `from_pool`."""
    exchanges = tuple(
        Exchange(
            record.id,
            record.instruction,
            record.response,
            Stored(record.training_prompt, record.completion, record.prompt, record.num_response_tokens),
        )
        for record in records
    )
    cached = tuple(Example(e.id, _from_strings(loaded.tokenizer, e.stored)) for e in exchanges if e.stored)
    return _built(loaded, exchanges, {"origin": origin, "cached": cached, **fields})


def from_pool(loaded: Loaded, pool: Pool | None = None, **fields: Any) -> Subject:
    """The subject over the few-shot examples that ship with rung, for recipes whose data are not made yet.

    Args:
        loaded: the model.
        pool: other examples.
        fields: any field of `Subject`, and `responses`, the settings that prompts are generated under.
    """
    chosen = pool or load_pool("few_shot_pool")
    exchanges = tuple(
        Exchange(f"{chosen.name}:{n}", e.instruction, e.response) for n, e in enumerate(chosen.examples, 1)
    )
    return _built(loaded, exchanges, {"origin": f"the examples of {chosen.name}", **fields})


def _built(loaded: Loaded, exchanges: tuple[Exchange, ...], fields: dict[str, Any]) -> Subject:
    responses = fields.pop("responses", Responses.Settings())
    adapter = fields.pop("adapter", AdapterSettings())
    own: dict[str, Any] = {
        "held_out": (),
        "settings_classes": (),
        "max_tokens": SftSettings().max_tokens,
        "text": _text_path(responses),
        "training": _training_path(),
        "adapters": _adapter_path(adapter),
        "policy": policy_path(),
        "engine": _engine,
    }
    return Subject(loaded=loaded, exchanges=exchanges, **{**own, **fields})


def _text_path(responses: Responses.Settings) -> TextPath:
    pool = load_pool("few_shot_pool")
    with_start = room("engine.jobs").with_start
    prompts = {f"evaluation ({name})": prompt for name, prompt in CONDITIONS.items() if name != "raw"}
    zero_shot = responses.model_copy(update={"num_examples": 0})
    return TextPath(
        render=Frame.render,
        completion=Frame.completion,
        delimiter=Frame.delimiter,
        stop_strings=Frame.stop_strings,
        prompts={
            "training": Frame.prompt,
            "generation": lambda text: _generation_prompt(zero_shot, pool, text),
            **prompts,
        },
        few_shot_prompt=lambda text: _generation_prompt(responses, pool, text),
        prompt_ids=lambda tokenizer, text: with_start(tokenizer.encode(text), tokenizer),
        cut=check_examples,
    )


def _generation_prompt(settings: Responses.Settings, pool: Pool, instruction: str) -> str:
    """What the generator really sends, overheard by a completer that plays back nothing."""
    overheard = Scripted(lambda request: "")
    Responses(settings, completer=overheard, pool=pool).generate([Instruction("audit", instruction, "", "", 0)], 0)
    return overheard.requests[0].text


def _training_path() -> TrainingPath:
    step, objectives = room("train.step"), room("train.objectives.cross_entropy")
    return TrainingPath(
        pack=pack,
        attend=room("models.layers.attend").PackedAttend,
        objective=objectives.CrossEntropy(objectives.CrossEntropy.Settings()),
        loss=step.evaluate,
        accumulate=step.accumulate,
        order=lambda: step_indices,
        curriculum=_curriculum,
    )


def _curriculum(difficulties: Sequence[float], per_step: int, epochs: int, seed: int) -> Sequence[Sequence[int]]:
    settings = SftSettings(sequences_per_step=per_step, epochs=epochs, seed=seed, curriculum="length")
    order = room("train.order").DataOrder(len(difficulties), settings, difficulties)
    return [order(step) for step in range(order.num_steps)]


def _adapter_path(settings: AdapterSettings) -> AdapterPath:
    adapters = room("train.adapters")
    return AdapterPath(
        settings, adapters.prepare, adapters.save_adapter, adapters.attach_adapter, adapters.merge
    )  # fmt: skip


def _engine(loaded: Loaded) -> Completer:
    engine: Completer = room("engine.engine").Engine(loaded, EngineSettings(num_slots=_NUM_SLOTS))
    return engine


def _from_strings(tokenizer: Tokenizer, stored: Stored) -> Rendered:
    """Ids and mask that follow from the stored strings alone, whatever the frame has become since."""
    prompt_ids = tokenizer.document(stored.training_prompt)
    target_ids = [*tokenizer.encode(stored.completion), *tokenizer.end_ids[:1]]
    mask = (*[False] * len(prompt_ids), *[True] * len(target_ids))
    return Rendered((*prompt_ids, *target_ids), mask, len(prompt_ids))
