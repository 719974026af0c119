"""Stages that generate with a completer of the recipe: served weights, a provider's model, and what is refused."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from pipeline_script import ScriptedModels, answer, script
from pipeline_toys import CLEAN
from tests.engine.fake_provider import FakeProvider, serving

from rung.base.errors import BudgetSpent, ModelError, SettingsError
from rung.engine.opening import Surroundings, open_completer
from rung.pipeline import recipe as recipes
from rung.pipeline.budget import Budget, BudgetSettings
from rung.pipeline.identity import identities
from rung.pipeline.plan import plan
from rung.pipeline.runner import Options, RunResult, run
from rung.pipeline.stages._completer import RunWallet
from rung.pipeline.stages._pilot import Pilot
from rung.records.contracts import Request, Sampling
from rung.records.manifest import Opened, open_manifest

CRITIC = {"kind": "information_gain", "shrinkage": 0.0}
PRICE = {"prompt": 1.0, "completion": 1000.0, "currency": "EUR", "date": "2026-11-01", "source": "a test"}
FIELDS = ["model", "prompt", "max_tokens", "temperature", "top_p", "repetition_penalty", "stop", "seed"]


def hosted(address: str = "http://127.0.0.1:9/v1", **changes: Any) -> dict[str, Any]:
    return {"kind": "hosted", "address": address, "model": "m/1.5", "fields": FIELDS, "max_in_flight": 1, **changes}


def ladder(completer: Any, calibrate: dict[str, Any] | None = None, **changes: Any) -> list[dict[str, Any]]:
    limits = {"mandated": ["empty"], "num_resamples": 100}
    pilot = {"name": "pilot", "count": 24, "critic_threshold": 0.2, **changes}
    return [
        {"calibrate": {"critics": [CRITIC], "limits": limits, **(calibrate or {})}},
        {"bootstrap": {**pilot, **({"completer": completer} if completer else {})}},
    ]


def written(folder: Path, stages: list[dict[str, Any]], **top: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"run": "r", "model": "tiny:llama", "seed": 3, "stages": stages, **top}))
    return path


def go(path: Path, models: Any = None, **options: Any) -> RunResult:
    chosen = Options(code=CLEAN, **options)
    return run(recipes.load(path), path.parent / "runs", models or ScriptedModels(), chosen)


def output(folder: Path, stage: str = "pilot") -> Opened:
    return open_manifest(folder / "runs" / "r" / stage)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def judged_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe's own model is a script; it judges, and writes where no completer is named."""

    def open_engine(context: Any, outputs: Any, settings: Any, trained: Any = None) -> Any:
        outputs.note("model", {"source": "tiny:llama", "report": {"verdict": "clean"}})
        return script()

    for stage in ("bootstrap", "calibrate"):
        monkeypatch.setattr(f"rung.pipeline.stages.{stage}.open_engine", open_engine)


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    def write(body: Any) -> str:
        return answer(Request("r", Sampling(), body["seed"], body["prompt"]))

    with serving(FakeProvider(write)) as made:
        yield made


# -- the same weights behind our own server


@pytest.fixture
def served_tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    load = partial(importlib.import_module("rung.models.load").load, precision="float32")
    engine, online = (importlib.import_module(f"rung.engine.{name}") for name in ("engine", "online"))
    server, key, settings = (
        importlib.import_module(f"rung.app.server.{name}") for name in ("running", "key", "settings")
    )
    factory, model_facts = (
        importlib.import_module(name) for name in ("rung.app.server.factory", "rung.pipeline.stages._model")
    )
    monkeypatch.setenv("RUNG_SERVE_KEY", "key-of-our-own-server")
    loaded, chosen = load("tiny:llama"), settings.ServeSettings(port=0)
    events = importlib.import_module("rung.base.events").Events()
    app = factory.create_app(
        online.Online(lambda: engine.Engine(loaded), events=events), "tiny", chosen, key.Key("key-of-our-own-server"),
        events, facts=lambda: model_facts.model_facts(loaded),
    )  # fmt: skip
    with server.Running(app, server.listen(chosen)) as running:
        yield f"{running.address}/v1"


def tiny_keeper() -> Any:
    load = partial(importlib.import_module("rung.models.load").load, precision="float32")
    return importlib.import_module("rung.app.models_keeper").ModelsKeeper(load)


def tiny_ladder(completer: Any) -> list[dict[str, Any]]:
    """A random model judged by a random model: nothing passes a gate, and all that it wrote is kept."""
    critic = {**CRITIC, "allow_unclean_model": True}
    settings = {
        "count": 2, "max_rounds": 1, "force_critic": "information_gain", "instruction_filters": [],
        "response_filters": [], "responses": {"kind": "responses", "max_new_tokens": 8, "num_examples": 1},
        "instructions": "completer_toys:Babble",
    }  # fmt: skip
    named = {"completer": completer} if completer else {}
    return ladder(completer, {"critics": [critic], "num_pairs": 4, **named}, **settings)


def test_served_and_local_make_the_same_records_under_one_fingerprint(tmp_path: Path, served_tiny: str) -> None:
    shards, manifests = {}, {}
    for name, completer in (("local", None), ("served", {"kind": "served", "address": served_tiny})):
        (tmp_path / name).mkdir()
        go(written(tmp_path / name, tiny_ladder(completer)), tiny_keeper(), force=frozenset({"calibrate"}))
        opened = output(tmp_path / name)
        manifests[name], shards[name] = opened.manifest, opened.manifest.shards
        assert opened.count("candidate") > 3
    assert shards["served"] == shards["local"]
    assert manifests["served"].fingerprint == manifests["local"].fingerprint
    assert manifests["served"].model == manifests["local"].model
    assert manifests["served"].bypasses == manifests["local"].bypasses
    assert "key-of-our-own-server" not in manifests["served"].model_dump_json()


def test_a_server_with_other_weights_is_refused(tmp_path: Path, served_tiny: str) -> None:
    stages = [{"calibrate": {"completer": {"kind": "served", "address": served_tiny}, "num_pairs": 4,
                             "critics": [{**CRITIC, "allow_unclean_model": True}]}}]  # fmt: skip
    result = go(written(tmp_path, stages, model="tiny:llama?seed=9"), tiny_keeper())
    assert isinstance(result.error, ModelError)
    assert "rung serve tiny:llama?seed=9" in result.error.hint


# -- a provider's model


def priced(folder: Path, provider: FakeProvider, **top: Any) -> Path:
    stages = ladder(hosted(provider.address), allow_unclean_model=True)
    stages.append({"bootstrap": {"name": "scale", "settings_from": "pilot", "count": 36, "shards": 2}})
    return written(folder, stages, prices={"m/1.5": PRICE}, **top)


def test_a_provider_writes_the_recipes_model_judges_and_the_run_pays(
    tmp_path: Path, provider: FakeProvider, judged_here: None
) -> None:
    result = go(priced(tmp_path, provider))
    assert result.exit_code == 0, str(result.error)
    pilot, scale = output(tmp_path).manifest, output(tmp_path, "scale").manifest
    assert output(tmp_path, "scale").count("sft") == 36
    assert pilot.model["outside"]["identity"]["host"] == "127.0.0.1"
    assert pilot.model["report"]["verdict"] == "unchecked"
    assert pilot.model["source"] == ""
    assert all("unclean model: hosted:m/1.5" in manifest.bypasses[0] for manifest in (pilot, scale))
    [record, *_] = output(tmp_path).records("sft")
    assert (record.metadata["model_name"], record.metadata["loader_version"]) == ("hosted:m/1.5", "none")
    charged = [row for name, row in scale.figures.items() if name.startswith("usage_shard_")]
    tokens = {name: sum(row[name] for row in charged) for name in ("prompt", "completion")}
    assert scale.spend["money"] == pytest.approx((tokens["prompt"] + 1000 * tokens["completion"]) / 1e6)
    per_record = pilot.spend["money"] / Pilot.of(output(tmp_path)).num_kept
    assert scale.estimate["money"] == pytest.approx(36 * per_record)


def test_a_cap_on_money_holds_and_the_run_goes_on_from_there(
    tmp_path: Path, provider: FakeProvider, judged_here: None
) -> None:
    (tmp_path / "whole").mkdir()
    assert go(priced(tmp_path / "whole", provider)).exit_code == 0
    pilot = output(tmp_path / "whole").manifest.spend["money"]
    (tmp_path / "capped").mkdir()
    stopped = go(priced(tmp_path / "capped", provider, budget={"money": 1.6 * pilot}))
    assert isinstance(stopped.error, BudgetSpent)
    ledger = (tmp_path / "capped" / "runs" / "r" / "ledger.jsonl").read_text().splitlines()
    spent = sum(json.loads(line)["spend"].get("money", 0.0) for line in ledger)
    assert pilot < spent <= 1.6 * pilot
    assert go(priced(tmp_path / "capped", provider, budget={"money": 100 * pilot})).exit_code == 0
    for stage in ("pilot", "scale"):
        ours, theirs = (output(tmp_path / name, stage).manifest.shards for name in ("whole", "capped"))
        assert ours == theirs


@pytest.mark.parametrize("at_once", [1, 4])
def test_no_request_is_sent_that_could_pass_the_runs_cap(at_once: int) -> None:
    """Four tokens at one each, ten in all: two requests fit, however many could be under way."""
    how, budget = Sampling(max_new_tokens=4), Budget(BudgetSettings(money=10.0))
    price = {"m/1.5": {"prompt": 0, "completion": 1_000_000}}
    with serving(FakeProvider(lambda body: " a b c d")) as provider:
        spec = hosted(provider.address, max_in_flight=at_once, prices=price)
        completer: Any = open_completer(spec, Surroundings(wallet=RunWallet(budget)))
        with pytest.raises(BudgetSpent, match="costs up to 4"):
            completer.complete([Request(f"{n}", how, n, "x") for n in range(9)])
        completer.release()
        assert (len(provider.seen), budget.total.money) == (2, 8.0)


def test_limits_prices_and_ports_are_no_part_of_what_was_made(tmp_path: Path) -> None:
    def texts(completer: Any, **top: Any) -> dict[str, str]:
        path = written(tmp_path, ladder(completer, allow_unclean_model=bool(completer)), **top)
        return {name: one.text for name, one in identities(recipes.load(path), str).items()}

    first = texts(hosted())
    assert first == texts(hosted("http://127.0.0.1:10/v1", limits={"requests": 5}), prices={"m/1.5": PRICE})
    assert first["pilot"] != texts(hosted(model="another"))["pilot"]
    default = texts(None)
    assert "completer" not in default["pilot"]
    assert "allow_unclean_model" not in json.loads(default["pilot"])["settings"]
    assert texts({"kind": "served", "address": "http://127.0.0.1:9/v1"}) == default
    assert texts("local") == default


# -- what is refused before any work

TALKS = {"completer": hosted(), "allow_unclean_model": True}


@pytest.mark.parametrize(
    ("stages", "top", "what", "hint"),
    [
        (ladder(hosted(api="chat"), allow_unclean_model=True), {}, "takes messages only", "api: completions"),
        (ladder(hosted()), {}, "no clean loader vouches for 'hosted:m/1.5'", "allow_unclean_model: true"),
        (ladder({"kind": "scripted", "answers": ["x"]}), {}, "no clean loader", "allow_unclean_model: true"),
        (ladder(None, {"completer": hosted()}), {}, "needs log-probabilities of given text", "score_by_echo"),
        (ladder(None, {"completer": hosted(score_by_echo=True)}), {}, "clean loader", "allow_unclean_model: true"),
        (ladder("served"), {"model": ""}, "the recipe names none", "model: SOURCE"),
        (ladder({"kind": "local", "model": "tiny:llama"}), {}, "a stage's own model is the recipe's", "leave the"),
        (ladder(**TALKS), {"budget": {"money": 1}}, "no price of 'm/1.5' is known", "known: none"),
        (ladder(**TALKS), {"prices": {"x": PRICE}, "budget": {"money": 1}}, "no price of 'm/1.5'", "known: x"),
        (ladder(hosted(prices={"m/1.5": {"prompt": 1, "completion": 1}}), allow_unclean_model=True),
         {"prices": {"x": PRICE}}, "priced in USD, the recipe's prices are in EUR", "one currency"),
        (ladder("hostd"), {}, "'hostd'", "did you mean 'hosted'"),
    ],
)  # fmt: skip
def test_what_a_completer_cannot_do_is_refused_with_place_and_hint(
    tmp_path: Path, stages: Any, top: dict[str, Any], what: str, hint: str
) -> None:
    with pytest.raises(SettingsError, match=what) as caught:
        recipes.load(written(tmp_path, stages, **top))
    assert caught.value.place.startswith("recipe.yaml:")
    assert "completer" in caught.value.place
    assert hint in caught.value.hint


# -- prices


def test_prices_come_from_a_file_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text(yaml.safe_dump({"m/1.5": PRICE}))
    path = written(tmp_path, ladder(**TALKS), prices="prices.yaml", budget={"money": 1})
    found = recipes.load(path)
    assert found.prices["m/1.5"].completion == 1000
    assert found.resolved()["prices"]["m/1.5"]["date"] == "2026-11-01"
    shown = {row.path: row.value for row in plan(found, tmp_path / "runs").settings}
    assert shown["prices"]["m/1.5"]["prompt"] == 1.0


@pytest.mark.parametrize(
    ("prices", "what", "place"),
    [
        ({"m": {**PRICE, "date": None}}, "has no date", "prices.m.date"),
        ({"m": {**PRICE, "source": ""}}, "has no source", "prices.m.source"),
        ({"m": {**PRICE, "prompt": -1}}, "greater than or equal to 0", "prices.m.prompt"),
        ({"m": {**PRICE, "promt": 1}}, "unknown key 'promt'", "prices.m.promt"),
        ({"m": PRICE, "n": {**PRICE, "currency": "USD"}}, "prices in EUR, USD", "prices"),
        ({"m": 3}, "a price is a mapping", "prices.m"),
        ("gone.yaml", "cannot read", "gone.yaml"),
        ("../p.yaml", "not a plain relative name", "recipe.yaml"),
    ],
)
def test_a_price_that_is_none_is_refused_where_it_stands(tmp_path: Path, prices: Any, what: str, place: str) -> None:
    with pytest.raises(SettingsError, match=what) as caught:
        recipes.load(written(tmp_path, ladder(None), prices=prices))
    assert place in caught.value.place


def test_the_shipped_recipe_plans_as_the_one_without_a_server(tmp_path: Path) -> None:
    """No server is asked, and what is planned has the fingerprints of the local recipe."""
    folder = Path(__file__).parents[2] / "recipes"
    ours, theirs = (recipes.load(folder / f"{name}.yaml") for name in ("served", "bootstrap"))
    assert [stage.state for stage in plan(ours, tmp_path, Options(code=CLEAN)).stages] == ["to_do", "to_do"]
    assert identities(ours, str) == identities(theirs, str)
