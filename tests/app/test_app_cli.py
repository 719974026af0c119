"""The real command line: help, exit codes, where messages go, and that no command drags torch in."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import rung.app.cli as cli
import rung.app.cli_looking as cli_looking
from rung.base import errors
from rung.base.errors import RungError
from rung.base.lookup import known
from rung.pipeline.recipe import load

ROOT = Path(__file__).parents[2]
STAGES = """
from rung.base.settings import Field, Settings
from rung.pipeline.stage import Stage, Verdict
from rung.records.types import Instruction

class MakeSettings(Settings):
    count: int = Field(3, ge=1)
    limit: int = Field(0, ge=0)

class Make(Stage):
    Settings = MakeSettings
    uses_model = False
    outputs = {"instructions": "instruction"}

    def run(self, context, inputs, outputs):
        made = [Instruction(f"i{n}", f"Do {n}.", "x", "p", n) for n in range(self.settings.count)]
        context.events.progress("making", len(made), len(made), "records")
        context.events.metric("made", len(made), 1)
        outputs.shard("instructions", 0, made)

    def figures(self, output):
        return {"count": output.count("instructions")}

    def gate(self, figures):
        short = figures["count"] < self.settings.limit
        return Verdict(not short, (f"count {figures['count']} is under {self.settings.limit}",) if short else ())

class Broken(Make):
    def run(self, context, inputs, outputs):
        raise ZeroDivisionError("planted defect with " + "hunter2hunter2")
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe of a user's own stage, as the current one."""
    (tmp_path / "own_stages.py").write_text(STAGES)
    (tmp_path / "recipe.yaml").write_text("run: small\nstages:\n  - own_stages:Make: {name: make, count: 3}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_stages", raising=False)
    return tmp_path


def test_help_names_every_command_and_imports_no_torch() -> None:
    shown = CliRunner().invoke(cli.app, ["--help"])
    assert shown.exit_code == 0
    for name in (*(part.replace("_", "-") for part in known("app.commands")), "new"):
        assert re.search(rf"│ {name}\s", shown.output), name
        assert CliRunner().invoke(cli.app, [name, "--help"]).exit_code == 0


@pytest.mark.parametrize("module", ["cli", "commands.plan", "commands.run", "commands.inspect", "commands.compare",
                                    "commands.report"])  # fmt: skip
def test_commands_that_run_no_model_import_without_torch(module: str) -> None:
    code = f"import sys, rung.app.{module}; assert not {{'torch', 'transformers', 'tensorboard'}} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", [getattr(errors, name) for name in errors.__all__])
def test_every_named_ending_becomes_its_code_with_place_and_hint(
    kind: type[RungError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(name: str) -> None:
        raise kind("it went wrong", place="here", hint="do that")

    monkeypatch.setattr(cli_looking, "command", fail)
    assert cli.execute(["report", "x"]) == kind.exit_code
    captured = capsys.readouterr()
    assert "here: it went wrong" in captured.err
    assert "hint: do that" in captured.err
    assert captured.out == ""


def test_the_table_of_exit_codes_is_true() -> None:
    table = (ROOT / "docs" / "ERRORS.md").read_text()
    rows = dict(re.findall(r"^\| (\d+) \|([^|]*)\|", table, re.MULTILINE))
    for name in errors.__all__:
        kind = getattr(errors, name)
        assert f"`{kind.code}`" in rows[str(kind.exit_code)], name


def test_a_defect_leaves_its_trace_in_a_file_without_secrets(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "hunter2hunter2")
    monkeypatch.setenv("TMPDIR", str(project))
    monkeypatch.setattr(cli.tempfile, "tempdir", str(project))
    (project / "recipe.yaml").write_text("run: small\nstages: [{own_stages:Broken: {name: make}}]\n".replace(
        "{own_stages:Broken: {name: make}}", '{"own_stages:Broken": {name: make}}'))  # fmt: skip
    assert cli.execute(["run", "recipe.yaml", "--allow-dirty"]) == 1
    told = capsys.readouterr().err
    assert "ZeroDivisionError" in told
    assert "Traceback" not in told
    [trace] = project.glob("rung-trace-*.txt")
    assert str(trace) in told
    assert "Traceback" in trace.read_text()
    assert "hunter2hunter2" not in trace.read_text() + told


def test_wrong_usage_and_ctrl_c_have_codes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute(["nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err

    def interrupt(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_looking, "command", interrupt)
    assert cli.execute(["report", "x"]) == 130


def test_run_then_nothing_to_do_then_drift(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute(["run", "recipe.yaml", "--allow-dirty"]) == 0
    first = capsys.readouterr()
    assert "done" in first.out
    assert (project / "runs" / "small" / "report.html").is_file()
    assert list((project / "runs" / "small" / "tensorboard").glob("events*"))
    before = (project / "runs" / "small" / "report.html").stat().st_mtime_ns
    assert cli.execute(["run", "recipe.yaml", "--allow-dirty"]) == 0
    assert "nothing to do, all 1 stages" in capsys.readouterr().out
    assert (project / "runs" / "small" / "report.html").stat().st_mtime_ns == before
    assert cli.execute(["run", "recipe.yaml", "--allow-dirty", "--set", "make.count=4"]) == 6
    assert "count: 3 -> 4" in capsys.readouterr().err
    assert cli.execute(["run", "recipe.yaml", "--allow-dirty", "--set", "make.count=4", "--rebuild", "make"]) == 0


def test_a_failed_gate_is_told_on_standard_error_and_decides_the_exit_code(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "recipe.yaml", "--allow-dirty", "--set", "make.limit=5"]
    assert cli.execute(arguments) == 4
    captured = capsys.readouterr()
    assert "count 3 is under 5" in captured.err
    assert "gate failed" in captured.out
    assert cli.execute([*arguments, "--force", "make"]) == 0
    assert "forced" in capsys.readouterr().out


def test_plan_writes_nothing_and_says_where_settings_come_from(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert cli.execute(["plan", "recipe.yaml", "--show-settings", "--set", "make.limit=2"]) == 0
    out = capsys.readouterr().out
    assert "to do" in out
    assert "recipe.yaml:3" in out
    assert re.search(r"limit\s+2\s+--set", out)
    assert "instructions-*.jsonl.zst" in out
    assert not (project / "runs").exists()


def test_a_typo_is_told_before_any_work(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "recipe.yaml").write_text("run: small\nstages:\n  - own_stages:Make: {name: make, cuont: 3}\n")
    assert cli.execute(["run", "recipe.yaml"]) == 2
    told = capsys.readouterr().err
    assert "recipe.yaml:3" in told
    assert "did you mean 'count'" in told
    assert not (project / "runs").exists()


def test_generate_is_the_recipe_with_another_count(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--allow-dirty", "--recipe", "recipe.yaml"]
    assert cli.execute(["generate", "--count", "5", *common]) == 0
    # The very same outputs: `run` finds nothing left to do, so every fingerprint agrees.
    assert cli.execute(["run", "recipe.yaml", "--allow-dirty", "--set", "make.count=5"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert cli.execute(["generate", "--count", "6", "--dry-run", *common]) == 0
    assert "drifted" in capsys.readouterr().out


def test_generate_refuses_a_recipe_with_two_counts(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (project / "recipe.yaml").open("a") as file:
        file.write("  - own_stages:Make: {name: more, count: 3}\n")
    assert cli.execute(["generate", "--count", "5", "--recipe", "recipe.yaml"]) == 2
    assert "make, more" in capsys.readouterr().err


def test_options_may_stand_before_or_behind_the_command(project: Path) -> None:
    assert cli.execute(["--runs", "a", "run", "recipe.yaml", "--allow-dirty", "-q"]) == 0
    assert cli.execute(["run", "recipe.yaml", "--allow-dirty", "-q", "--runs", "b", "--log-file", "log.jsonl"]) == 0
    assert (project / "a" / "small").is_dir()
    assert (project / "b" / "small").is_dir()
    assert (project / "log.jsonl").exists()


def test_quiet_says_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute(["run", "recipe.yaml", "--allow-dirty", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_new_writes_a_recipe_that_loads_and_never_overwrites(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute(["new", "mine.yaml"]) == 0
    assert [spec.name for spec in load(project / "mine.yaml", profile="dev").stages]
    assert cli.execute(["new", "mine.yaml"]) == 2
    assert "already" in capsys.readouterr().err


def test_the_installed_command_works_and_takes_a_closed_pipe(demo_runs: Path) -> None:
    command = f"{sys.executable} -c 'import rung.app.cli as c; c.main()' inspect demo/bootstrap --records --limit 50"
    done = subprocess.run(f"{command} --runs {demo_runs} | head -1", shell=True, capture_output=True, text=True,
                          check=False, env={**os.environ, "PYTHONPATH": str(ROOT / "src")})  # fmt: skip
    assert done.stdout
    assert done.stderr == ""
