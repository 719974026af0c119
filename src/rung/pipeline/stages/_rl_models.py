"""Trained reward models in a policy's run: named in the recipe, held against its weights before any work, and lent.

A model is a reward stage of the recipe, or `run:FOLDER`, that of another run. Of either the facts are in its manifest,
so a weight for an attribute that it does not read is told before anything is loaded. One whose body was frozen needs
none of its own where the policy is an adapter over the same base: it reads the base with the adapter off. Any other is
loaded beside the policy, frozen, in the precision that suits this machine; what it takes is told in the manifest.

In the mix every attribute is a part of its own, `PART.ATTRIBUTE`, normalised in the group like any other before it is
weighted; attributes without a weight are told and count nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.base.errors import DataError, GateFailed, SettingsError
from rung.base.lookup import part
from rung.base.settings import nearest
from rung.pipeline.stage import Context
from rung.pipeline.stages._model import room
from rung.pipeline.stages._reward_reading import HEAD, open_reward_model
from rung.records.contracts import Item, Trace
from rung.records.manifest import FILE_NAME, Opened, open_manifest
from rung.scoring.mixing import MixSettings, PartSettings
from rung.scoring.reward import Lent, Reader
from rung.scoring.rewards.model import Model

__all__ = [
    "Announced", "KeptReader", "LentModels", "announced", "as_parts", "guessed", "is_model", "lend", "other_runs",
    "stages_of",
]  # fmt: skip

_RUN, _WHOLE, _PREFERENCE = "run:", "hierarchical", "preference"
Values = tuple[tuple[float, ...], ...]


@dataclass(slots=True)
class Announced:
    """A reward model as far as its manifest says: what it reads, not what it would say."""

    attributes: Mapping[str, float]
    levels: tuple[float, ...]

    def read(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Values | None]:
        """Nothing is loaded.

        Raises:
            DataError: always.
        """
        raise DataError("the reward model is not loaded yet", place="reward_models")


class KeptReader:
    """A reader that is asked once for a batch, however many parts want to know.

    Only the last batch is kept, and a new one is read whole: what is read depends on what is asked in this step and
    never on what a run that was not interrupted would still remember.
    """

    def __init__(self, inner: Reader) -> None:
        self._inner = inner
        self.levels, self.attributes = inner.levels, inner.attributes
        self._known: dict[tuple[str, str], Values | None] = {}

    def read(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Values | None]:
        """As the inner one reads; equal answers are read once."""
        keys = [(item.id, trace.text) for item, trace in zip(items, traces, strict=True)]
        if any(key not in self._known for key in keys):
            places = {key: place for place, key in reversed(list(enumerate(keys)))}
            asked = sorted(places.values())
            found = self._inner.read([items[place] for place in asked], [traces[place] for place in asked])
            self._known = {keys[place]: values for place, values in zip(asked, found, strict=True)}
        return [self._known[key] for key in keys]


class _OverBase:
    """A reader with a frozen body, on the network that is trained: its adapter is off while the head reads."""

    def __init__(self, network: Any, tokenizer: Any, trained: Opened) -> None:
        self.network, self._heads = network, room("models.head")
        self._head, facts = self._heads.load_head(trained.file(HEAD).parent, network.shape.width)
        module = room("train.reward_reader")
        self._reader = module.RewardReader(network, tokenizer, module.RewardFacts.model_validate(facts))
        self.levels, self.attributes = self._reader.levels, self._reader.attributes
        self.num_bytes = sum(parameter.nbytes for parameter in self._head.parameters())

    def read(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Values | None]:
        """As a reader with a network of its own; the policy is left as it was."""
        with room("train.adapters").switch_off(self.network):
            self._heads.attach_head(self.network, self._head)
            try:
                found: list[Values | None] = self._reader.read(items, traces)
            finally:
                self._heads.take_off(self.network)
        return found


@dataclass(frozen=True)
class LentModels:
    """Readers by name, and what a manifest says about each."""

    readers: Mapping[str, Reader]
    facts: Mapping[str, Any]


def stages_of(models: Mapping[str, str]) -> dict[str, str]:
    """Input name -> stage, of the models that this recipe trains."""
    return {f"reward_model.{name}": where for name, where in models.items() if not where.startswith(_RUN)}


def other_runs(models: Mapping[str, str]) -> dict[str, Path]:
    """Manifest by name, of the models that another run trained."""
    return {name: Path(where[len(_RUN) :]) / FILE_NAME for name, where in models.items() if where.startswith(_RUN)}


def announced(opened: Opened, name: str) -> Announced:
    """What a reward stage says that it reads.

    Raises:
        SettingsError: it is no reward stage.
        GateFailed: its own gate said no, and nobody went past it on purpose.
    """
    manifest, place = opened.manifest, f"reward_models.{name}"
    if manifest.stage != "reward":
        raise SettingsError(
            f"stage '{manifest.name}' trained no reward model, it is a '{manifest.stage}'",
            place=place,
            hint="name a stage of kind reward",
        )
    if manifest.outcome != "done":
        raise GateFailed(f"the reward model of '{manifest.name}' did not pass its gate", place=place)
    facts = manifest.figures["facts"]
    objective = facts["objective"]
    kind = objective if isinstance(objective, str) else objective["kind"]
    usual = dict.fromkeys(facts["attributes"] or (_PREFERENCE,), 1.0)
    if kind == _WHOLE:
        usual = {_WHOLE: 1.0, **dict.fromkeys(facts["attributes"], 0.0)}
    return Announced(usual, tuple(manifest.figures["levels"]))


def guessed(models: Mapping[str, str], parts: Sequence[PartSettings]) -> dict[str, Reader]:
    """Stand-ins that read whatever is asked of them, for models that are not trained yet; the others as announced.

    Raises:
        As `announced`, and SettingsError for a model that no part of the mix asks.
    """
    asked: dict[str, dict[str, float]] = {}
    for model in map(_model_of, parts):
        if model is not None:
            asked.setdefault(model.name, {}).update(model.weights)
    if idle := [name for name in models if name not in asked]:
        raise SettingsError(
            f"no reward asks the model '{idle[0]}'",
            place=f"reward_models.{idle[0]}",
            hint=f"rewards.parts.PART.reward: {{kind: model, name: {idle[0]}}}; {nearest(idle[0], list(asked))}",
        )
    found: dict[str, Reader] = {}
    elsewhere = other_runs(models)
    for name in models:
        if name in elsewhere:
            found[name] = announced(open_manifest(elsewhere[name].parent), name)
        else:
            found[name] = Announced(dict.fromkeys(asked[name], 1.0) or {_PREFERENCE: 1.0}, (0.5,))
    return found


def is_model(settings: PartSettings) -> bool:
    """Whether a part of a mix asks a reward model."""
    return _kind(settings) == "model"


def as_parts(settings: MixSettings, readers: Mapping[str, Reader]) -> MixSettings:
    """The mix with each attribute of a reward model as a part of its own; a model of one attribute stays as it is.

    Weights are shares of the part's weight, as in the weighted mean that they take the place of.

    Raises:
        SettingsError: a model that is not lent, or a weight for what it does not read.
    """
    parts: dict[str, PartSettings] = {}
    for name, own in settings.parts.items():
        model = _model_of(own)
        if model is None:
            parts[name] = own
            continue
        Model(model, Lent(readers=readers))  # refuses names and weights that do not fit
        reader = readers[model.name]
        weights = {one: model.weights.get(one, 0.0) for one in reader.attributes} if model.weights else None
        parts |= _apart(name, own, weights or dict(reader.attributes))
    return settings.model_copy(update={"parts": parts})


def _apart(name: str, own: PartSettings, weights: Mapping[str, float]) -> dict[str, PartSettings]:
    if len(weights) == 1:
        return {name: own}
    assert not isinstance(own.reward, str) or own.reward == "model"
    spec = {"kind": "model"} if isinstance(own.reward, str) else dict(own.reward)
    total = sum(abs(weight) for weight in weights.values())
    return {
        f"{name}.{attribute}": own.model_copy(
            update={
                "reward": {**spec, "weights": {attribute: -1.0 if weight < 0 else 1.0}},
                "weight": own.weight * abs(weight) / total,
            }
        )
        for attribute, weight in weights.items()
    }


def lend(context: Context, opened: Mapping[str, Opened], open_policy: Any, *, shares: bool) -> tuple[Any, LentModels]:
    """(policy, models): first what needs a network of its own, then the policy, then what reads the policy's base.

    Args:
        context: lends the networks.
        opened: the reward stages' outputs by name.
        open_policy: opens the policy, when it is its turn.
        shares: whether the policy is one adapter or two over the recipe's own model.

    Raises:
        ModelError: a head that does not fit, or another model than the head was trained on.
    """
    # a network that the policy is trained in must not be one that a head was put on for good: these come first
    beside = {name: one for name, one in opened.items() if not (shares and _frozen_on(one, context.model_source))}
    readers: dict[str, Any] = {name: open_reward_model(context, one) for name, one in beside.items()}
    policy = open_policy()
    for name, one in opened.items():
        if name not in beside:
            readers[name] = _OverBase(policy.loaded.network, policy.loaded.tokenizer, one)
    facts = {name: _facts(opened[name], readers[name]) for name in opened}
    for name, told in facts.items():
        context.events.log(f"reward model '{name}': {told['body']}, {told['num_bytes'] >> 20} MiB")
    return policy, LentModels({name: KeptReader(readers[name]) for name in opened}, facts)


def _frozen_on(opened: Opened, source: str) -> bool:
    """Whether a reward model is a head over the base that the recipe names."""
    adapted = any(info.role == "adapter" for info in opened.manifest.files)
    return not adapted and opened.manifest.model.get("source") == source


def _facts(opened: Opened, reader: Any) -> dict[str, Any]:
    over = isinstance(reader, _OverBase)
    return {
        "stage": opened.manifest.name,
        "fingerprint": opened.manifest.fingerprint,
        "attributes": list(reader.attributes),
        "levels": list(reader.levels),
        "body": "the policy's base, its adapter off" if over else "a network beside the policy",
        "precision": str(reader.network.output_weight.dtype).removeprefix("torch."),
        "num_bytes": reader.num_bytes if over else sum(one.nbytes for one in reader.network.parameters()),
    }


def _model_of(own: PartSettings) -> Any:
    """The settings of a part that asks a reward model; None of any other."""
    if not is_model(own):
        return None
    return part("scoring.rewards", own.reward if isinstance(own.reward, str) else dict(own.reward), "rewards")[1]


def _kind(own: PartSettings) -> str:
    return own.reward if isinstance(own.reward, str) else str(own.reward.get("kind", ""))
