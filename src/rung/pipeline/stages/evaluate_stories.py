"""What networks of this run tell: stories from fixed openings, and stories asked for with words, several of each.

Every network gets the same prompts with the same seeds, so rows compare pair by pair. What is counted is in
`rung.datagen.stories.told`; intervals draw whole prompts, for the copies of one prompt are not independent. The gate
asks that every figure was measured, and for what the recipe names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rung.base.errors import SettingsError
from rung.base.fingerprint import plain
from rung.base.proportions import wilson_interval
from rung.base.seeds import derive
from rung.base.settings import Field, Settings
from rung.datagen.stories.features import load_features
from rung.datagen.stories.figures import distinct
from rung.datagen.stories.judging import Known, Validators, validators
from rung.datagen.stories.prompts import joined
from rung.datagen.stories.told import OPENINGS, Asked, Runs, Told, fault_of, load_openings
from rung.datagen.stories.vocabulary import WORDS, load_vocabulary, triples
from rung.engine.settings import EngineSettings
from rung.evaluate.statistics import paired_bootstrap
from rung.pipeline.stage import Context, Outputs, Stage, Terms, Verdict
from rung.pipeline.stages._model import polling, published, room
from rung.records.chat.frame import Frame
from rung.records.contracts import Request, Sampling
from rung.records.manifest import Opened

__all__ = ["EvaluateStories"]

_REQUEST = "Write a short story that uses the words {words}."
_REPEATS = "near_copies"
_NATS = math.log(2)  # in a bit


class EvaluateStoriesSettings(Settings):
    """Which networks, how many stories of each, and who reads them."""

    models: dict[str, str] = Field(min_length=1, description="name in the table -> stage whose published network tells")
    corpus: str = Field("", description="the stage whose documents they learnt from: what is not in it is counted")
    openings: str = Field("", description="a file of openings (YAML); empty: the fifty shipped ones")
    num_openings: int = Field(50, ge=1, description="of these, the first so many")
    num_requests: int = Field(50, ge=0, description="requests with words; needs openings and requests to be told apart")
    copies: int = Field(10, ge=1, le=100, description="stories of each prompt")
    words: str = Field("", description="a list of words (YAML); empty: the shipped one")
    max_level: int = Field(1, ge=1, le=3, description="hardest words that are asked for")
    temperature: float = Field(0.7, ge=0, le=2, description="of the draws")
    top_p: float = Field(0.95, gt=0, le=1, description="share of the probability that is drawn from")
    max_new_tokens: int = Field(160, ge=1, description="limit of one story")
    validators: tuple[str | dict[str, Any], ...] = Field(
        ("blocked_words", {"kind": "length", "min_words": 20}, "ending", "loops", "simplicity", "known_words"),
        description="parts of datagen/stories/validators: what is a fault; none that remembers other stories",
    )
    reader: str = Field("", description="source of another model, which says how well it foresees them; empty: none")
    engine: EngineSettings = Field(EngineSettings(keep_logprobs=False, keep_entropies=False), description="its sizes")
    better: tuple[str, str] | None = Field(
        None, description="two names: of the first, surely more words asked for are used than of the second"
    )


class EvaluateStories(Stage):
    """The stories of every network, one shard for each."""

    Settings = EvaluateStoriesSettings
    version = 1
    uses_model = False
    outputs: Mapping[str, str] = {"told": "document"}

    def inputs(self) -> dict[str, str]:
        """The networks, and the corpus."""
        named = {f"network.{name}": stage for name, stage in self.settings.models.items()}
        return {**named, **({"corpus": self.settings.corpus} if self.settings.corpus else {})}

    def files(self) -> dict[str, Path]:
        """The lists that are the user's."""
        named = {"openings": self.settings.openings, "words": self.settings.words}
        return {key: Path(name) for key, name in named.items() if name}

    def check(self, terms: Terms) -> None:
        """Read what is asked, and by whom it is judged.

        Raises:
            SettingsError, DataError: naming the setting, or the entry of the file.
        """
        own = self.settings
        names = [one if isinstance(one, str) else str(one["kind"]) for one in own.validators]
        if _REPEATS in names:
            raise SettingsError(
                f"'{_REPEATS}' judges a story by the ones before it", place="validators", hint="leave it out"
            )
        validators(own.validators, self._known(), "validators")
        self._asked()
        for place, name in enumerate(own.better or ()):
            if name not in own.models:
                raise SettingsError(
                    f"no model is called '{name}'", place=f"better[{place}]", hint=", ".join(own.models)
                )

    def units(self, inputs: Mapping[str, Opened]) -> float | None:
        """Stories."""
        own = self.settings
        return float(len(own.models) * (own.num_openings + own.num_requests) * own.copies)

    def run(self, context: Context, inputs: Mapping[str, Opened], outputs: Outputs) -> None:
        """One network after another tells everything; finished ones are kept."""
        own, done = self.settings, set(outputs.finished("told"))
        asked = self._asked()
        runs = Runs(one.text for one in inputs["corpus"].records("document")) if own.corpus else None
        for index, name in enumerate(own.models):
            if index in done:
                continue
            told = self._told(context, name, published(inputs[f"network.{name}"]), asked)
            told = self._read(context, told, asked, runs)
            outputs.shard("told", index, [one.record(number) for number, one in enumerate(told)])
            context.events.progress("networks", index + 1, len(own.models), "networks")
        context.models.release()

    def _told(self, context: Context, name: str, source: str, asked: Sequence[Asked]) -> list[Told]:
        """What one network makes of every prompt, copy after copy."""
        own = self.settings
        loaded = context.models.load(source, clean=False)
        engine = room("engine.engine").Engine(loaded, own.engine, events=context.events, on_step=polling(context))
        # what was tuned in the frame closes with its delimiter after an opening too, and that is no part of a story
        sampling = Sampling(
            temperature=own.temperature, top_p=own.top_p, max_new_tokens=own.max_new_tokens, stop=Frame.stop_strings
        )
        plan = [(one, copy) for one in asked for copy in range(own.copies)]
        requests = [
            Request(
                f"{one.id}-{copy}",
                sampling,
                seed=derive(context.seed, "told", one.id, copy),
                token_ids=tuple(loaded.tokenizer.document(one.prompt)),
            )
            for one, copy in plan
        ]
        done = engine.complete(requests)
        context.budget.spend(tokens=sum(len(one.token_ids) for one in done))
        return [
            Told(name, one.id, one.hero, one.words, one.begun + made.text, made.finish_reason)
            for (one, _), made in zip(plan, done, strict=True)
        ]

    def _read(self, context: Context, told: Sequence[Told], asked: Sequence[Asked], runs: Runs | None) -> list[Told]:
        """The same with what was not in the corpus, and what the reader makes of them."""
        begun = {one.id: one.begun for one in asked}
        new = [one.text[len(begun[one.asked]) :] for one in told]
        bits = [0.0] * len(told)
        if self.settings.reader:
            loaded = context.models.load(self.settings.reader, clean=False)
            engine = room("engine.engine").Engine(loaded, self.settings.engine, on_step=polling(context))
            scored = engine.score([begun[one.asked] or "\n" for one in told], new)
            bits = [-one.total / _NATS for one in scored]
        return [
            Told(
                one.condition, one.asked, one.hero, one.words, one.text, one.finish_reason,
                runs.unseen(text) if runs else -1.0, own_bits, len(text.encode()),
            )
            for one, text, own_bits in zip(told, new, bits, strict=True)
        ]  # fmt: skip

    def figures(self, output: Opened) -> dict[str, Any]:
        """A row for every network, recomputed from the stories."""
        known, rows = self._known(), dict[str, Any]()
        begun = {one.id: one.begun for one in self._asked()}
        by_name: dict[str, list[Told]] = {name: [] for name in self.settings.models}
        for record in output.records("told"):
            by_name[record.source].append(Told.of(record))
        judges = validators(self.settings.validators, known, "validators")
        for name, told in by_name.items():
            rows[name] = _row(told, begun, known, judges, read=bool(self.settings.reader))
        found: dict[str, Any] = {"rows": rows}
        if self.settings.better:
            found["better"] = plain(_gain(by_name[self.settings.better[0]], by_name[self.settings.better[1]], known))
        return found

    def gate(self, figures: Mapping[str, Any]) -> Verdict:
        """Every figure was measured, and what was to be better is."""
        own, reasons = self.settings, []
        for name, row in figures["rows"].items():
            empty = [key for key, value in row.items() if isinstance(value, Mapping) and value.get("n") == 0]
            wanted = [*(["words_used"] if own.num_requests else []), *(["unseen"] if own.corpus else [])]
            reasons += [f"{name}: nothing was measured of {key}" for key in empty if key in ("without_fault", *wanted)]
        if own.better and figures["better"]["interval"]["low"] <= 0:
            low, high = figures["better"]["interval"]["low"], figures["better"]["interval"]["high"]
            reasons.append(
                f"'{own.better[0]}' does not surely use more of the words asked for than '{own.better[1]}': "
                f"{figures['better']['difference']:+.1%} [{low:+.1%}, {high:+.1%}]"
            )
        return Verdict(not reasons, tuple(reasons))

    def _known(self) -> Known:
        return Known(load_vocabulary(Path(self.settings.words) if self.settings.words else WORDS), load_features())

    def _asked(self) -> list[Asked]:
        """Openings and requests, the same for every seed."""
        own = self.settings
        openings = load_openings(Path(own.openings) if own.openings else OPENINGS)[: own.num_openings]
        dealt = triples(self._known().vocabulary, derive(0, "told"), own.max_level)
        requests = []
        for number, triple in enumerate(islice(dealt, own.num_requests)):
            words = tuple(word.text for word in triple)
            text = _REQUEST.format(words=joined([f'"{word}"' for word in words]))
            requests.append(Asked(f"request {number}", Frame.prompt(text), words=words))
        return [*openings, *requests]


def _row(
    told: Sequence[Told], begun: Mapping[str, str], known: Known, judges: Validators, *, read: bool
) -> dict[str, Any]:
    faults = fault_of(told, judges)
    opened, requested = ([one for one in told if bool(begun[one.asked]) is is_opening] for is_opening in (True, False))
    counts: dict[str, int] = {}
    for fault in filter(None, faults):
        counts[fault] = counts.get(fault, 0) + 1
    row: dict[str, Any] = {
        "without_fault": _mean([not fault for fault in faults], told),
        "faults": dict(sorted(counts.items(), key=lambda entry: -entry[1])),
        "ended": _mean([one.finish_reason != "length" for one in told], told),
        "keeps_to_hero": _mean([one.keeps_to_hero(begun[one.asked]) for one in opened], opened),
        "words_used": _mean([one.used(known) / len(one.words) for one in requested], requested),
        "unseen": _mean([one.unseen for one in told if one.unseen >= 0], [one for one in told if one.unseen >= 0]),
        "distinct_3": distinct((one.text for one in told), 3),
    }
    if read:
        spoken = [one for one in told if one.num_bytes]
        row["bits_per_byte"] = _mean([one.bits / one.num_bytes for one in spoken], spoken)
    return row


def _mean(values: Sequence[float], told: Sequence[Told]) -> dict[str, float]:
    """The mean with the interval of a bootstrap over prompts; where all are alike, Wilson's over prompts."""
    if not values:
        return {"n": 0, "mean": 0.0, "low": 0.0, "high": 1.0}
    prompts = [one.asked for one in told]
    lift = paired_bootstrap([0.0] * len(values), [float(v) for v in values], prompts, num_resamples=2000)
    low, high = lift.interval.low, lift.interval.high
    if min(values) == max(values) and lift.difference in (0.0, 1.0):
        low, high = wilson_interval(lift.difference * len(set(prompts)), len(set(prompts)))
    return {"n": len(values), "mean": lift.difference, "low": low, "high": high}


def _gain(first: Sequence[Told], second: Sequence[Told], known: Known) -> Any:
    """How much more of the words asked for the first uses, prompt by prompt."""
    ours, theirs = ([one.used(known) / len(one.words) for one in told if one.words] for told in (first, second))
    return paired_bootstrap(theirs, ours, [one.asked for one in first if one.words])
