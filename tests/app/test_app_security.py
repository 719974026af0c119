"""Secrets are never written, what comes from outside is data, and nothing that is loaded can run code."""

from __future__ import annotations

import ast
import builtins
import io
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.table import Table

from rung.app import inspect as views
from rung.app.cli import execute
from rung.app.inspect import Part
from rung.app.logging import LogSettings, LogSink
from rung.app.progress import ProgressSink
from rung.app.runs import find_output
from rung.app.terminal import SafeConsole, visible
from rung.base.errors import DataError, ModelError, RungError, SettingsError
from rung.base.events import Events, JsonLines
from rung.base.files import inside, plain_name
from rung.base.secrets import redact, redact_all
from rung.models.cache import Cache
from rung.models.found import folder_identity
from rung.models.load import load as load_model
from rung.pipeline.ledger import Entry, Ledger
from rung.pipeline.recipe import load
from rung.records.manifest import FileInfo, open_manifest
from rung.records.shards import ShardInfo, read_shard
from rung.scoring.grading.grade import grade
from rung.scoring.grading.problem import Problem
from rung.scoring.sandbox.ladder import climb
from rung.scoring.sandbox.settings import SandboxSettings
from rung.train.adapters import attach_adapter
from rung.train.checkpoint import load_best, load_checkpoint

SOURCE = Path(__file__).parents[2] / "src" / "rung"
KEY = "sk-planted-0123456789-abcdef"
ESCAPES = "\x1b[2J\x1b]0;owned\x07\x1b[31mred\x9b2K\u202eback\rstart"
MARKUP = "[bold red]loud[/] [link=https://evil]click[/link] :skull:"

STAGE = '''"""A stage that lets its key slip wherever a stage can write."""

import os

from rung.base.errors import ModelError
from rung.base.settings import Field, Settings
from rung.pipeline.stage import Stage
from rung.records.types import Instruction


class Leaky(Stage):
    """Leaks."""

    class Settings(Settings):
        """Whether it fails, and how."""

        fail: str = Field("", description="named, defect, or nothing")

    outputs = {"records": "instruction"}
    uses_model = False

    def run(self, context, inputs, outputs):
        """Leak."""
        key = os.environ["PROVIDER_API_KEY"]
        context.events.log(f"asking with {key}", level="warning", header={"Authorization": [f"Bearer {key}"]})
        context.events.degraded("provider", f"401 for {key}")
        context.events.metric("toy/x", 1.0, 1)
        outputs.note("model", {"report": {"error": f"key {key} refused"}, key: 1})
        if self.settings.fail == "named":
            raise ModelError(f"the key {key} was refused", place=f"https://h/?key={key}", hint=f"is {key} right?")
        if self.settings.fail == "defect":
            raise ZeroDivisionError(f"while using {key}")
        outputs.shard("records", 0, [Instruction("i", "Say it.", "t", "h", 0)])
'''


@pytest.fixture
def leaky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe whose one stage leaks a key that is in the environment."""
    (tmp_path / "leaky_stage.py").write_text(STAGE)
    (tmp_path / "r.yaml").write_text("run: leak\nstages:\n  - leaky_stage:Leaky: {name: leaky}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PROVIDER_API_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def everything_in(folder: Path) -> str:
    found = [p for p in folder.rglob("*") if p.is_file() and p.suffix != ".py" and "__pycache__" not in p.parts]
    return "\n".join(p.read_bytes().decode(errors="replace") for p in found)


@pytest.mark.parametrize("fail", ["", "named", "defect"])
def test_a_planted_key_is_found_nowhere_after_a_run(leaky: Path, capfd: Any, fail: str) -> None:
    sets = ["--set", f"leaky.fail={fail}"] if fail else []
    code = execute(["run", "r.yaml", "--allow-dirty", "--log-level", "debug", "--log-file", "all.log", *sets])
    assert code == {"": 0, "named": 7, "defect": 1}[fail]
    if not fail:
        assert execute(["report", "leak"]) == 0
        assert execute(["inspect", "leak/leaky"]) == 0
        assert (leaky / "runs" / "leak" / "report.html").is_file()
    written, said = everything_in(leaky), capfd.readouterr()
    assert "asking with [secret]" in written
    assert KEY not in written
    assert KEY not in said.out + said.err
    assert "[secret]" in said.err


def test_a_key_in_a_recipe_or_on_the_command_line_is_refused_before_anything_is_written(
    leaky: Path, capsys: Any
) -> None:
    assert execute(["run", "r.yaml", "--set", f"leaky.fail={KEY}"]) == 2
    said = capsys.readouterr().err
    assert "'leaky.fail' holds a secret" in said
    assert KEY not in said
    (leaky / "r.yaml").write_text(f"run: leak\nmodel: hf:{KEY}/m\nstages: [leaky_stage:Leaky]\n")
    with pytest.raises(SettingsError, match="'model' holds a secret"):
        load(leaky / "r.yaml")
    assert not (leaky / "runs").exists()


def test_redaction_reaches_into_structures_and_leaves_words_alone() -> None:
    environment = {"A_TOKEN": "abcdefgh", "B_KEY": "abcdefghij", "SHORT_KEY": "abc", "PATH": "abcdefgh/bin"}
    assert redact("x abcdefghij abcdefgh abc", environment) == "x [secret] [secret] abc"
    assert redact_all({"k": ["abcdefgh", {"abcdefgh": 1}], "n": 2}, environment) == {
        "k": ["[secret]", {"[secret]": 1}], "n": 2,
    }  # fmt: skip


def test_ledger_and_event_file_hold_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X_SECRET", KEY)
    Ledger(tmp_path).append(Entry(event="ended", stage="a", message=f"no: {KEY}"))
    sink = JsonLines(tmp_path / "events.jsonl")
    Events([sink], run="r").log("x", error=ValueError(KEY))
    sink.close()
    assert KEY not in everything_in(tmp_path)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../x", "", ".", "a\\b", "a\0b", "a\nb", "a/..", "\u202ex"]
)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a plain relative name"):
        plain_name(name)
    with pytest.raises(DataError, match="refused"):
        inside(tmp_path, name)
    with pytest.raises(ValueError, match="not a plain relative name"):
        ShardInfo(name=name, record_type="sft", count=0, sha256="", records_sha256="")
    with pytest.raises(ValueError, match="not a plain relative name"):
        FileInfo(name=name, sha256="", role="text")


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    folder, secret = tmp_path / "stage", tmp_path / "secret.txt"
    folder.mkdir()
    secret.write_text("s")
    (folder / "a.txt").symlink_to(secret)
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "b.txt").symlink_to(folder / "c.txt")
    with pytest.raises(DataError, match="leads out"):
        inside(folder, "a.txt")
    assert inside(folder, "b.txt") == folder / "b.txt"


@pytest.mark.parametrize("name", ["../secret.txt", "/etc/passwd", "link.txt"])
@pytest.mark.parametrize("where", ["shard", "file"])
def test_a_manifest_cannot_point_out_of_its_folder(demo_runs: Path, where: str, name: str) -> None:
    folder = demo_runs / "demo" / ("probe" if where == "shard" else "sft")
    (folder.parent / "secret.txt").write_text("top secret")
    (folder / "link.txt").symlink_to(folder.parent / "secret.txt")
    path = folder / "manifest.json"
    values = json.loads(path.read_text())
    (values["shards"]["items"] if where == "shard" else values["files"])[0]["name"] = name
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"plain relative name|leads out"):
        open_manifest(folder).verify()
    assert execute(["report", "demo", "--runs", str(demo_runs)]) == 3
    assert execute(["inspect", f"demo/{folder.name}", "--records", "--runs", str(demo_runs)]) in (0, 3)


def test_a_shard_that_is_a_link_is_not_read(demo_runs: Path) -> None:
    folder = demo_runs / "demo" / "probe"
    info = open_manifest(folder).manifest.shards["items"][0]
    shutil.move(folder / info.name, demo_runs / "elsewhere")
    (folder / info.name).symlink_to(demo_runs / "elsewhere")
    with pytest.raises(DataError, match="leads out"):
        list(read_shard(folder, info))


def test_a_record_type_from_nowhere_is_refused() -> None:
    with pytest.raises(ValueError, match="no record type"):
        ShardInfo(name="a", record_type="os.system", count=0, sha256="", records_sha256="")


@pytest.mark.parametrize(
    "text",
    [
        "run: ../x\nstages: [probe]\n", "run: /tmp/x\nstages: [probe]\n", "run: ..\nstages: [probe]\n",
        "run: x\nextends: ../outside\n", "run: x\nextends: /etc/passwd\n", "run: x\nextends: linked\n",
        "run: x\nstages:\n  - probe: {name: ../../x}\n", "run: x\nstages:\n  - probe: {name: /x}\n",
        "run: x\nstages:\n  - '../stages/probe': {}\n",
        "run: !!python/object/apply:os.system ['touch owned']\n",
    ],
)  # fmt: skip
def test_a_recipe_cannot_lead_out_of_its_folders(tmp_path: Path, monkeypatch: Any, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outside.yaml").write_text("run: outside\nstages: [probe]\n")
    here = tmp_path / "recipes"
    here.mkdir()
    (here / "linked.yaml").symlink_to(tmp_path / "outside.yaml")
    (here / "r.yaml").write_text(text)
    with pytest.raises(SettingsError):
        load(here / "r.yaml")
    assert not (tmp_path / "owned").exists()


class Payload:
    """Pickles to something that leaves a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._path),)


def pickled(owned: Path, how: str) -> bytes:
    if how == "pickle":
        return pickle.dumps(Payload(owned))
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(2), "x": Payload(owned)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("how", ["pickle", "torch"])
@pytest.mark.parametrize(
    "what", ["weights", "optimizer", "state", "best", "adapter", "adapter.bin", "model", "model.bin"]
)
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path, how: str, what: str) -> None:
    owned, folder = tmp_path / "owned", tmp_path / "f"
    with pytest.raises(RungError):
        open_malicious(what, folder, pickled(owned, how))
    assert not owned.exists()


def open_malicious(what: str, folder: Path, data: bytes) -> None:
    """Put the payload where a checkpoint, an adapter or a model is looked for, and open it."""
    folder.mkdir()
    parameters = {"w": torch.nn.Parameter(torch.zeros(2))}
    optimizer = torch.optim.SGD(parameters.values(), lr=0.1)
    if what in ("weights", "optimizer", "state"):
        checkpoint = folder / "checkpoint-00000001"
        checkpoint.mkdir()
        for name in ("weights.safetensors", "optimizer.safetensors", "state.json"):
            (checkpoint / name).write_bytes(b"{}")
        name = "state.json" if what == "state" else f"{what}.safetensors"
        (checkpoint / name).write_bytes(data)
        if what != "state":
            (checkpoint / "state.json").write_text('{"identity": "i", "losses": [], "validation": []}')
        load_checkpoint(folder, "i", parameters, optimizer)
    elif what == "best":
        (folder / "best-00000001.safetensors").write_bytes(data)
        load_best(folder, 1, parameters)
    elif what.startswith("adapter"):
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}')
        (folder / ("adapter_model.bin" if what == "adapter.bin" else "adapter_model.safetensors")).write_bytes(data)
        attach_adapter(load_model("tiny:llama", clean=False, strict=False).network, folder)
    else:
        (folder / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
        (folder / ("pytorch_model.bin" if what == "model.bin" else "model.safetensors")).write_bytes(data)
        load_model(f"dir:{folder}", clean=False, strict=False)


FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def unpickling(tree: ast.AST) -> list[str]:
    """What in a module could run code from a file."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in FORBIDDEN_IMPORTS]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_IMPORTS:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in ("torch.load", "eval", "exec", "yaml.unsafe_load", "yaml.full_load", "os.system"):
                found.append(name)
            found += [
                k.arg for k in node.keywords if k.arg in ("allow_pickle", "shell") and ast.unparse(k.value) != "False"
            ]
            found += [k.arg for k in node.keywords if k.arg == "trust_remote_code" and ast.unparse(k.value) != "False"]
    return found


# What a file may do on purpose, and no more than that; why.
ON_PURPOSE = {
    # a solution, in the sandbox's process for it: the file is sent there as text and imported nowhere
    "scoring/grading/_guest.py": ["exec"],
    # a program, after the sandbox's doors are shut
    "scoring/sandbox/inside/program.py": ["exec"],
    # the task's own code and tests, in the process that grades; a solution never is (tested below)
    "scoring/grading/grade.py": ["exec"],
    # functions that rung wrote itself, to know what they give
    "scoring/tasks/functions.py": ["exec"],
    # orders to the sandbox's workers; what a worker sends is never unmarshalled (tested below)
    "scoring/sandbox/inside/wire.py": ["marshal"],
}


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_here_unpickles_or_runs_text(path: Path) -> None:
    assert unpickling(ast.parse(path.read_text())) == ON_PURPOSE.get(str(path.relative_to(SOURCE)), [])


def test_only_the_sandboxs_own_processes_unmarshal_and_import_what_runs_text() -> None:
    inside = SOURCE / "scoring" / "sandbox" / "inside"
    unmarshal, imported = set(), set()
    for path in SOURCE.rglob("*.py"):
        text, name = path.read_text(), str(path.relative_to(SOURCE))
        if "Plan.unpack" in text or "Order.unpack" in text or "marshal.loads" in text:
            unmarshal.add(path.parent)
        imported |= {name for hidden in ("grading._guest", "inside.program", "import _guest") if hidden in text}
        imported |= {name for line in text.splitlines() if "inside import" in line and " program" in line}
    assert unmarshal == {inside}
    assert imported == {"scoring/sandbox/inside/guest.py"}


def test_a_solution_never_runs_in_the_process_that_grades_it_and_a_test_does() -> None:
    solution = "import builtins\nbuiltins.loaded = 1\ndef double(x):\n    builtins.called = 1\n    return x + x"
    problem = Problem("double", ("import builtins\nbuiltins.tested = double(2)",), given="shared = 1")
    chosen = climb(SandboxSettings(slots=1))
    try:
        assert grade(problem, solution, chosen.sandbox).passed
    finally:
        chosen.sandbox.close()
    assert vars(builtins).pop("tested") == 4
    assert not {"loaded", "called"} & vars(builtins).keys()


def test_the_search_for_unpickling_sees_planted_cases() -> None:
    planted = (
        "import pickle\nfrom joblib import load\ntorch.load(p)\nnp.load(p, allow_pickle=True)\nf(trust_remote_code=x)"
    )
    assert len(unpickling(ast.parse(planted))) == 5


def test_control_characters_are_shown_and_not_obeyed() -> None:
    shown = visible(ESCAPES + "\n\tkept")
    assert shown.endswith("start\n\tkept")
    assert "␛[2J␛]0;owned␇" in shown
    assert "<RIGHT-TO-LEFT OVERRIDE>back␍start" in shown
    assert not any((ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 for c in shown)


def a_terminal() -> tuple[SafeConsole, io.StringIO]:
    file = io.StringIO()
    return SafeConsole(file=file, force_terminal=True, color_system=None, width=200), file


def test_the_terminal_obeys_neither_escapes_nor_markup_of_others() -> None:
    console, file = a_terminal()
    table = Table(title=MARKUP)
    table.add_column(MARKUP)
    table.add_row(ESCAPES)
    console.print(table)
    console.print(MARKUP + ESCAPES)
    shown = file.getvalue()
    assert shown.count("\x1b[31m") == shown.count("\x1b]") == shown.count("\x9b") == shown.count("\u202e") == 0
    assert shown.count(MARKUP) == 3
    plain = io.StringIO()
    Console(file=plain, force_terminal=True, color_system=None, width=200).print(ESCAPES)
    assert "\x1b]0;owned" in plain.getvalue()


def test_log_lines_and_progress_are_as_safe() -> None:
    console, file = a_terminal()
    events = Events([LogSink(LogSettings(), console), ProgressSink(console)], run=ESCAPES)
    events.log(ESCAPES + MARKUP, level="warning", answer=ESCAPES)
    events.degraded(ESCAPES, MARKUP)
    shown = file.getvalue()
    assert MARKUP in shown
    assert visible(ESCAPES + MARKUP) in shown
    assert shown.count("\x1b]") == shown.count("\x1b[2J") == shown.count("\x9b") == shown.count("\u202e") == 0


def test_instructions_inside_records_are_shown_as_text(demo_runs: Path, tmp_path: Path) -> None:
    output = find_output(demo_runs, "demo/bootstrap")
    console, file = a_terminal()
    console.print(views.drops(output, Part()))
    assert "<script>document.title='owned'</script>" in file.getvalue()
    page = tmp_path / "page.html"
    assert execute(["report", "demo", "--output", str(page), "--runs", str(demo_runs)]) == 0
    html = page.read_text()
    assert "<script>document.title" not in html
    assert "&lt;script&gt;document.title=" in html
    assert "default-src 'none'" in html


def test_a_model_folder_without_safetensors_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(pickled(tmp_path / "owned", "torch"))
    with pytest.raises(ModelError, match=r"pickled weights .* never opened"):
        folder_identity(tmp_path, Cache(tmp_path / "cache"))
