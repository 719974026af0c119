"""A recipe, resolved: which stages run in which order with which settings, and where every value came from.

Everything that can be wrong in a recipe is found here, before any work.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rung.base.errors import SettingsError
from rung.base.fingerprint import plain
from rung.base.lookup import known, lookup, part
from rung.base.prices import Price, price_table
from rung.base.secrets import redact
from rung.base.settings import Field, Settings, nearest, validate
from rung.pipeline.budget import BudgetSettings
from rung.pipeline.layers import Layer, merged_layers, merged_values
from rung.pipeline.review.reviewer import open_reviewer
from rung.pipeline.review.settings import ReviewDemand
from rung.pipeline.stage import Executor, Stage, Terms
from rung.pipeline.yaml_source import KeyPath

__all__ = ["FOLDER", "Recipe", "StageSpec", "load", "load_values"]

FOLDER = "pipeline.stages"
_REVIEW = "review"


class _Top(Settings):
    run: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the run, and of its folder")
    model: str = Field("", description="source of the base model, such as package:NAME, hf:ORG/NAME, gguf:PATH")
    seed: int = Field(0, ge=0, description="every random choice of the run is derived from it")
    budget: BudgetSettings = Field(default_factory=BudgetSettings, description="caps and the price of an hour")
    executor: dict[str, Any] = Field(default_factory=dict, description="who makes shards: a part of pipeline/executors")
    prices: dict[str, Any] = Field(default_factory=dict, description="of outside models, by name; or a file of them")


@dataclass(frozen=True)
class StageSpec:
    """One stage of a recipe: its class built with validated settings. `origins` maps setting paths to origins.

    `review` is the review that the stage's output must have; it is no setting of the stage, whose output is the same
    with and without it.
    """

    name: str
    kind: str
    stage: Stage
    inputs: Mapping[str, str]
    origins: Mapping[str, str]
    review: ReviewDemand | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Complete settings, defaults filled in, as JSON types."""
        return dict(plain(self.stage.settings))

    def with_derived(self, derived: Mapping[str, tuple[Any, str]]) -> tuple[dict[str, Any], dict[str, str]]:
        """Settings and origins with what `Stage.derived` gives laid over; origins have one entry per leaf."""
        settings, origins = self.settings, dict(self.origins)
        for path, (value, origin) in derived.items():
            origins = {p: o for p, o in origins.items() if p != path and not p.startswith(f"{path}.")}
            *above, last = path.split(".")
            inner = settings
            for key in above:
                inner = inner.setdefault(key, {})
            inner[last] = plain(value)
            origins.update(dict.fromkeys(_leaves(inner[last], path), origin))
        return settings, origins


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe. `path` is only for messages and resume hints; it is never written down. `executor` is no part
    of any identity: who makes a shard is not what it is."""

    run: str
    model: str
    seed: int
    budget: BudgetSettings
    executor: Executor
    executor_settings: Mapping[str, Any]
    stages: tuple[StageSpec, ...]
    origins: Mapping[str, str]
    prices: Mapping[str, Price] = field(default_factory=dict)
    profile: str = ""
    path: str = ""

    @property
    def terms(self) -> Terms:
        """What is said to all stages."""
        return Terms(self.model, self.budget, self.prices)

    def spec(self, name: str, place: str = "") -> StageSpec:
        """The stage called `name`.

        Raises:
            SettingsError: there is none.
        """
        for spec in self.stages:
            if spec.name == name:
                return spec
        names = [spec.name for spec in self.stages]
        raise SettingsError(f"there is no stage '{name}' in this recipe", place=place, hint=nearest(name, names))

    def resolved(self) -> dict[str, Any]:
        """Everything as JSON types, with origins: what is written beside the outputs."""
        return {
            "run": self.run,
            "model": self.model,
            "seed": self.seed,
            "budget": plain(self.budget),
            "executor": dict(self.executor_settings),
            **({"prices": plain(self.prices)} if self.prices else {}),
            "profile": self.profile,
            "origins": dict(self.origins),
            "stages": [
                {
                    "name": s.name,
                    "kind": s.kind,
                    "settings": s.settings,
                    "origins": dict(s.origins),
                    **({"review": plain(s.review)} if s.review else {}),
                }
                for s in self.stages
            ],
        }


def load(path: Path, *, profile: str = "", sets: Sequence[str] = ()) -> Recipe:
    """Read, merge and check a recipe.

    Args:
        path: the YAML file.
        profile: name of one of its `profile` sections, or "".
        sets: overrides as `key=value`: `seed=3`, `budget.money=1`, `sft.learning_rate=1e-4`.

    Raises:
        SettingsError: anything unknown, mistyped, out of range, missing, deprecated, duplicate or circular, with its
            place (file and line where there is one) and the nearest known name.
    """
    return _resolved(merged_layers(path, profile, sets), path.name, profile, str(path))


def load_values(values: Mapping[str, Any], place: str, *, sets: Sequence[str] = ()) -> Recipe:
    """The same for a recipe that a command puts together; `place` is what its errors name instead of a file.

    Raises:
        SettingsError: as for `load`.
    """
    return _resolved(merged_values(values, place, sets), place, "", "")


def _resolved(merged: Layer, place: str, profile: str, path: str) -> Recipe:
    _refuse_secrets({**merged.values, **merged.settings}, merged.origins)
    top = _validated(_Top, merged.values, (), merged.origins, place)
    executor, said = _executor(top.executor, merged)
    prices = _prices(top.prices, merged)
    if not merged.sequence:
        raise SettingsError("the recipe has no stages", place=place, hint="stages: [{KIND: {...}}, ...]")
    for name, kind in merged.sequence:
        _check_kind(kind, merged.origins.get((name,), place))
    stages = tuple(_stage(name, kind, merged) for name, kind in merged.sequence)
    _check_references(stages, merged)
    terms = Terms(top.model, top.budget, prices)
    for spec in stages:
        _check_terms(spec, terms, merged)
    return Recipe(
        run=top.run,
        model=top.model,
        seed=top.seed,
        budget=top.budget,
        executor=executor,
        executor_settings=said,
        stages=stages,
        origins=_origins({**plain(top), "executor": said, "prices": plain(prices)}, merged.origins, ()),
        prices=prices,
        profile=profile,
        path=path,
    )


def _prices(said: Mapping[str, Any], merged: Layer) -> dict[str, Price]:
    try:
        return price_table(said)
    except SettingsError as error:
        keys = next((at for at in merged.origins if ".".join(at) == error.place), tuple(error.place.split(".")))
        raise SettingsError(error.message, place=_place(keys, merged.origins, "prices"), hint=error.hint) from error


def _check_terms(spec: StageSpec, terms: Terms, merged: Layer) -> None:
    try:
        spec.stage.check(terms)
    except SettingsError as error:
        place = _place((spec.name, *error.place.split(".")), merged.origins, spec.name)
        raise SettingsError(error.message, place=place, hint=error.hint) from error


def _executor(spec: Mapping[str, Any], merged: Layer) -> tuple[Executor, dict[str, Any]]:
    """The executor, and all its settings."""
    named = {"kind": "local", **spec}
    try:
        kind, settings = part("pipeline.executors", named, "executor")
    except SettingsError as error:
        keys = tuple(key for key in error.place.split(".") if key != spec.get("kind", "local"))
        raise SettingsError(error.message, place=_place(keys, merged.origins, "executor"), hint=error.hint) from error
    return kind(settings), {"kind": named["kind"], **plain(settings)}


def _refuse_secrets(value: Any, origins: Mapping[KeyPath, str], at: KeyPath = ()) -> None:
    """Settings are written beside every output, so a secret of the environment must not be among them."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _refuse_secrets(inner, origins, (*at, str(key)))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _refuse_secrets(inner, origins, at)
    elif isinstance(value, str) and redact(value) != value:
        raise SettingsError(
            f"'{'.'.join(at)}' holds a secret of the environment",
            place=redact(_place(at, origins, "recipe")),
            hint="write the NAME of the variable where a setting takes one; never its value",
        )


def _check_kind(kind: str, place: str) -> None:
    """Names are checked before the first stage is imported: a typo should not wait for torch."""
    if ":" not in kind and kind not in known(FOLDER):
        raise SettingsError(f"there is no kind of stage '{kind}'", place=place, hint=nearest(kind, known(FOLDER)))


def _stage(name: str, kind: str, merged: Layer) -> StageSpec:
    place = merged.origins.get((name,), name)
    found = lookup(FOLDER, kind, place)
    notice = getattr(found, "DEPRECATED", "") or getattr(sys.modules[found.__module__], "DEPRECATED", "")
    if notice:
        why, _, use = notice.partition(";")
        raise SettingsError(f"stage kind '{kind}' is deprecated: {why.strip()}", place=place, hint=use.strip() or why)
    said = dict(merged.settings.get(name, {}))
    review = _review(said.pop(_REVIEW, None), name, merged)
    _check_deprecated(found.Settings, said, (name,), merged.origins)
    settings = _validated(found.Settings, said, (name,), merged.origins, place)
    stage = found(settings)
    origins = _origins(plain(settings), merged.origins, (name,))
    return StageSpec(name, kind, stage, dict(stage.inputs()), origins, review)


def _review(said: Any, name: str, merged: Layer) -> ReviewDemand | None:
    """What `review: {...}` of a stage demands; `review: true` demands one with everything at its default."""
    if said is None or said is False:
        return None
    at, values = (name, _REVIEW), {} if said is True else said
    if not isinstance(values, dict):
        place = _place(at, merged.origins, name)
        raise SettingsError(f"'review' is a mapping, got {said!r:.60}", place=place, hint="review: {question: ...}")
    demand: ReviewDemand = _validated(ReviewDemand, values, at, merged.origins, name)
    open_reviewer(demand.reviewer, place=f"{name}.{_REVIEW}.reviewer")
    return demand


def _check_deprecated(
    model: type[Settings], said: Mapping[str, Any], at: KeyPath, origins: Mapping[KeyPath, str]
) -> None:
    for key, value in said.items():
        spec = model.model_fields.get(key)
        if spec is None:
            continue
        path = (*at, key)
        if spec.deprecated:
            why, _, use = str(getattr(spec.deprecated, "message", spec.deprecated)).partition(";")
            raise SettingsError(
                f"setting '{key}' is deprecated: {why.strip()}",
                place=_place(path, origins, ""),
                hint=use.strip() or why,
            )
        inner = spec.annotation
        if isinstance(value, dict) and isinstance(inner, type) and issubclass(inner, Settings):
            _check_deprecated(inner, value, path, origins)


def _validated(model: Any, values: Mapping[str, Any], at: KeyPath, origins: Mapping[KeyPath, str], other: str) -> Any:
    try:
        return validate(model, values, ".".join(at))
    except SettingsError as error:
        path = tuple(part for part in error.place.split(".") if part)
        raise SettingsError(error.message, place=_place(path, origins, other), hint=error.hint) from error


def _place(path: KeyPath, origins: Mapping[KeyPath, str], other: str) -> str:
    for length in range(len(path), 0, -1):
        below = [text for p, text in origins.items() if p[:length] == path[:length]]
        if path[:length] in origins or below:
            return f"{origins.get(path[:length], below[0])}: {'.'.join(path)}"
    return ": ".join(filter(None, (other, ".".join(path))))


def _origins(values: Mapping[str, Any], origins: Mapping[KeyPath, str], at: KeyPath) -> dict[str, str]:
    """Origin of every leaf; what nobody said is a default. A value said whole (a list, a part's name) covers what
    validation unfolds it to."""
    rows: dict[str, str] = {}
    for key, value in values.items():
        path = (*at, key)
        if isinstance(value, dict) and value and path not in origins:
            inner = _origins(value, origins, path)
            rows.update({f"{key}.{rest}": text for rest, text in inner.items()})
        else:
            rows[key] = origins.get(path) or next((o for p, o in origins.items() if p[: len(path)] == path), "default")
    return rows


def _leaves(value: Any, path: str) -> list[str]:
    if isinstance(value, dict) and value:
        return [leaf for key, item in value.items() for leaf in _leaves(item, f"{path}.{key}")]
    return [path]


def _check_references(stages: Sequence[StageSpec], merged: Layer) -> None:
    order = {spec.name: index for index, spec in enumerate(stages)}
    for spec in stages:
        place = merged.origins.get((spec.name,), spec.name)
        for name, target in spec.inputs.items():
            if target not in order:
                raise SettingsError(
                    f"input '{name}' of '{spec.name}' names the stage '{target}', which does not exist",
                    place=place,
                    hint=nearest(target, [n for n in order if n != spec.name]),
                )
            if order[target] >= order[spec.name]:
                raise SettingsError(
                    _order_problem(spec, target, stages), place=place, hint=f"put '{target}' before '{spec.name}'"
                )
        try:
            spec.stage.check_inputs({name: stages[order[target]].stage for name, target in spec.inputs.items()})
        except SettingsError as error:
            path = (spec.name, *error.place.split("."))
            raise SettingsError(error.message, place=_place(path, merged.origins, ""), hint=error.hint) from error


def _order_problem(spec: StageSpec, target: str, stages: Sequence[StageSpec]) -> str:
    reads = {s.name: list(s.inputs.values()) for s in stages}
    trail, current = [spec.name], [target]
    while current:
        step = current.pop()
        if step == spec.name:
            return f"stages read each other in a circle: {' -> '.join([*trail, step])}"
        if step in trail or step not in reads:
            continue
        trail.append(step)
        current += reads[step]
    return f"'{spec.name}' reads '{target}', which comes later"
