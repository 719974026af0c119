"""Recipes: merged in order, every origin remembered, everything wrong found before any work."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from rung.base.errors import SettingsError
from rung.pipeline.identity import identities
from rung.pipeline.recipe import load

MAKE, COPY = "pipeline_toys:Make", "pipeline_toys:Copy"
BASE = f"""run: toy
model: fake:m
seed: 3
stages:
  - {MAKE}: {{name: made, count: 2, temperature: 1e-1}}
  - {COPY}: {{data: made}}
"""


def write(folder: Path, text: str, name: str = "r.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def refused(folder: Path, text: str, **options: object) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        load(write(folder, text), **options)  # type: ignore[arg-type]
    return caught.value


def test_a_recipe_resolves_with_defaults_and_origins(tmp_path: Path) -> None:
    recipe = load(write(tmp_path, BASE))
    made, copy = recipe.stages
    assert (recipe.run, recipe.model, recipe.seed) == ("toy", "fake:m", 3)
    assert (made.name, copy.name, copy.inputs) == ("made", "copy", {"data": "made"})
    assert made.settings["temperature"] == 0.1  # YAML 1.1 would have left the text "1e-1"
    assert made.origins["count"] == "r.yaml:5"
    assert made.origins["shards"] == "default"
    assert recipe.origins["seed"] == "r.yaml:3"
    assert recipe.origins["budget.money"] == "default"


def test_parent_recipe_profile_and_set_are_laid_over_each_other_in_that_order(tmp_path: Path) -> None:
    write(
        tmp_path,
        f"""model: fake:parent
seed: 1
budget: {{money: 5, price_per_hour: 2}}
profile: {{dev: {{seed: 7, stages: {{made: {{shards: 1}}}}}}, ci: {{seed: 8}}}}
stages:
  - {MAKE}: {{name: made, count: 1, shards: 9, temperature: 0.1, minimum: 1}}
""",
        "parent.yaml",
    )
    child = write(
        tmp_path,
        f"""run: child
extends: parent
budget: {{money: 6}}
profile: {{dev: {{stages: {{made: {{count: 4}}}}}}}}
stages:
  - {MAKE}: {{name: made, count: 2, temperature: 0.2}}
  - {COPY}: {{data: made}}
""",
        "child.yaml",
    )
    recipe = load(child, profile="dev", sets=["made.count=5", "budget.tokens=100"])
    made = recipe.stages[0]
    assert made.settings["count"] == 5
    assert made.origins["count"] == "--set"
    assert made.settings["shards"] == 1
    assert made.origins["shards"] == "parent.yaml:4 (profile dev)"
    assert made.settings["temperature"] == 0.2
    assert made.origins["temperature"] == "child.yaml:6"
    assert made.settings["minimum"] == 1
    assert made.origins["minimum"] == "parent.yaml:6"
    assert recipe.budget.money == 6
    assert recipe.budget.price_per_hour == 2
    assert recipe.budget.tokens == 100
    assert recipe.origins["budget.money"] == "child.yaml:3"
    assert recipe.seed == 7
    assert load(child).seed == 1
    assert load(child, profile="ci").seed == 8
    assert load(child).stages[0].settings["shards"] == 9


def test_a_child_may_lay_settings_over_its_parents_stages_by_name(tmp_path: Path) -> None:
    write(tmp_path, BASE, "parent.yaml")
    recipe = load(write(tmp_path, "extends: parent\nstages: {made: {count: 8}}\n"))
    assert recipe.stages[0].settings["count"] == 8
    assert recipe.stages[0].origins["count"] == "r.yaml:2"
    assert "there is no stage 'mad'" in refused(tmp_path, "extends: parent\nstages: {mad: {count: 8}}\n").message


@pytest.mark.parametrize(
    ("text", "place", "message", "hint"),
    [
        (BASE + "modle: x\n", "r.yaml:7", "unknown key 'modle'", "'model'"),
        (BASE.replace("count", "cuont"), "r.yaml:5: made.cuont", "unknown key 'cuont'", "'count'"),
        (BASE.replace("count: 2", "count: many"), "r.yaml:5: made.count", "'many'", ""),
        (BASE.replace("count: 2", "count: -1"), "r.yaml:5: made.count", "greater than or equal to 0", ""),
        (BASE.replace("seed: 3", "seed: [1]"), "r.yaml:3: seed", "[1]", ""),
        (BASE.replace("{data: made}", "{data: mad}"), "r.yaml:6", "'mad', which does not exist", "'made'"),
        (BASE.replace("{data: made}", "{name: made, data: x}"), "r.yaml:6", "two stages are called 'made'", "name"),
        (BASE.replace("Copy", "Copi"), "r.yaml:6", "no 'Copi'", "'Copy'"),
        (BASE.replace(COPY, "sfft"), "r.yaml:6", "no kind of stage 'sfft'", "known"),
        (BASE.replace("Make", "Retired"), "r.yaml:5", "deprecated: it never worked", "use pipeline_toys:Make"),
        (BASE.replace("count: 2", "old: 2"), "r.yaml:5: made.old", "deprecated: it did nothing", "use count"),
        (BASE.replace("run: toy", "run: ../toy"), "r.yaml:1: run", "../toy", ""),
        (BASE.replace("run: toy\n", ""), "r.yaml: run", "required", ""),
        (BASE.replace("seed: 3", "model: twice"), "r.yaml:3", "key 'model' stands twice", ""),
        (BASE.replace("name: made", "name: seed"), "r.yaml:5", "cannot be called 'seed'", ""),
        ("run: x\nstages: 3\n", "r.yaml:2", "list of stages", ""),
        ("run: x\n", "r.yaml", "no stages", ""),
        ("- a\n", "r.yaml", "a recipe is a mapping", ""),
        ("run: x\nextends: nowhere\n", "r.yaml:2", "no recipe 'nowhere'", ""),
        ("run: x\nstages:\n  - a: {b: [}\n", "r.yaml:3:13", "not valid YAML", ""),
        ("run: x\nstages:\n  - {a: 1, b: 2}\n", "r.yaml:3", "one key", ""),
        (BASE + "profile: {dev: {stages: {mde: {count: 1}}}}\n", "", "no profile 'dev'", ""),
    ],
)
def test_mistakes_are_named_with_place_and_fix(tmp_path: Path, text: str, place: str, message: str, hint: str) -> None:
    if "no profile" in message:
        text = text.replace("dev", "gpu")
        error = refused(tmp_path, text, profile="dev")
    else:
        start = time.perf_counter()
        error = refused(tmp_path, text)
        assert time.perf_counter() - start < 1.0
    assert message in error.message
    assert error.place.startswith(place)
    assert hint in error.hint


def test_a_profile_that_names_no_stage_of_the_recipe_is_refused(tmp_path: Path) -> None:
    text = BASE + "profile: {dev: {stages: {mde: {count: 1}}}}\n"
    assert "no stage 'mde'" in refused(tmp_path, text, profile="dev").message


def test_a_typo_in_a_profile_that_is_not_chosen_is_found_too(tmp_path: Path) -> None:
    assert "unknown key 'sed'" in refused(tmp_path, BASE + "profile: {gpu: {sed: 1}}\n").message


def test_order_and_circles(tmp_path: Path) -> None:
    later = f"run: x\nstages:\n  - {COPY}: {{name: a, data: b}}\n  - {MAKE}: {{name: b}}\n"
    assert "'a' reads 'b', which comes later" in refused(tmp_path, later).message
    circle = f"run: x\nstages:\n  - {COPY}: {{name: a, data: b}}\n  - {COPY}: {{name: b, data: a}}\n"
    assert "circle: a -> b -> a" in refused(tmp_path, circle).message


def test_recipes_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "extends: r.yaml\n", "other.yaml")
    assert "circle" in refused(tmp_path, "extends: other.yaml\n").message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("made.cuont=3", "unknown key 'cuont'"),
        ("mdae.count=3", "'mdae' is neither"),
        ("made=3", "'made' is a stage"),
        ("seed", "cannot read 'seed'"),
        ("made.count=[", "not a value"),
        ("run=y", "'run' is neither"),
    ],
)
def test_overrides_that_cannot_be_meant(tmp_path: Path, override: str, message: str) -> None:
    assert message in refused(tmp_path, BASE, sets=[override]).message


def test_a_missing_recipe_says_so(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read the recipe"):
        load(tmp_path / "absent.yaml")


def test_the_resolved_recipe_holds_every_setting_with_its_origin(tmp_path: Path) -> None:
    resolved = load(write(tmp_path, BASE), sets=["made.count=3"]).resolved()
    made = resolved["stages"][0]
    assert made["settings"].keys() == made["origins"].keys()
    assert made["origins"]["count"] == "--set"
    assert str(tmp_path) not in str(resolved)


def test_an_evaluation_is_of_the_training_before_it() -> None:
    """Its fingerprint changes with whatever was trained, and with the model under that."""
    found = []
    for changes, model in ((), "a"), (("sft.training.epochs=1",), "a"), ((), "b"):
        recipe = load(Path("recipes/quickstart.yaml"), sets=changes)
        found.append(identities(recipe, lambda source, model=model: model)["evaluate"].fingerprint)
    assert len(set(found)) == 3
