"""What the documents claim exists: every row of FEATURES.md, every command of the README, every link."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rung.base.lookup import known

ROOT = Path(__file__).parent.parent
FEATURES = (ROOT / "docs" / "FEATURES.md").read_text()
README = (ROOT / "README.md").read_text()
CODE = re.compile(r"`([^`]+)`")
COLUMNS = 6


def rows() -> list[list[str]]:
    found = []
    for line in FEATURES.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == COLUMNS and not set(cells[0]) <= set("-: ") and cells[0] != "capability":
            found.append(cells)
    return found


def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")}


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_there_are_rows() -> None:
    assert len(rows()) > 20


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:40])
def test_every_row_is_there(row: list[str]) -> None:
    _, items, where, how, test, effect = row
    assert all(1 <= int(number) <= 474 for number in re.findall(r"\d+", items)), items
    for path in CODE.findall(where):
        assert (ROOT / path).exists(), f"{path} does not exist"
    for command in CODE.findall(how):
        check_command(command)
    named = CODE.findall(test)
    assert named, "a row names its test"
    for name in named:
        file, _, function = name.partition("::")
        assert (ROOT / file).is_file(), f"{file} does not exist"
        assert not function or function in names_in(ROOT / file), f"{name} does not exist"
    for path in re.findall(r"docs/results/[\w.\-]+", effect):
        assert (ROOT / path).is_file(), f"{path} does not exist"


def check_command(command: str) -> None:
    """A command names a real subcommand and real options, or a real make target."""
    words = command.split()
    if words[0] == "make":
        assert words[1] in make_targets(), command
    elif words[0] == "rung":
        assert words[1].replace("-", "_") in {*known("app.commands"), "new"}, command
        if options := {word for word in words if word.startswith("--")}:
            shown = help_of(words[1])
            assert all(option in shown for option in options), command


def help_of(name: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "rung", name, "--help"],
        capture_output=True, text=True, check=True, env={"COLUMNS": "200", "PATH": "", "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    return done.stdout


def readme_commands() -> list[str]:
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", README, re.DOTALL)
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("command", readme_commands())
def test_every_command_of_the_readme_exists(command: str) -> None:
    assert command.split()[0] in ("make", "rung"), command
    check_command(command)
    for path in re.findall(r"recipes/[\w./\-]+", command):
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/FEATURES.md", "docs/LOG.md", "docs/ERRORS.md"])
def test_links_lead_somewhere(name: str) -> None:
    file = ROOT / name
    for link in re.findall(r"\]\(([^)#\s]+)", file.read_text()):
        if not link.startswith(("http:", "https:", "mailto:")):
            assert (file.parent / link).exists(), f"{name}: {link}"
