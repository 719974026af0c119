"""The house rules that can be tested: levels, sizes, torch-free rooms, unread settings, stray prompts."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "rung"
LEVELS = {
    "base": 0, "records": 1, "models": 2, "scoring": 2, "search": 2, "datagen": 2, "evaluate": 2, "engine": 3,
    "train": 3, "pipeline": 4, "app": 5,
}  # fmt: skip
TORCH_FREE = ("base", "records", "scoring", "search", "datagen", "evaluate")
FILES = sorted(SOURCE.rglob("*.py"))
FORBIDDEN_NAMES = {"utils", "helpers", "common", "misc", "util", "helper"}


def room_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).parts
    return parts[0] if len(parts) > 1 else ""


def imported_rooms(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, dotted name below rung) of every import of ours."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rung."):
            found.append((node.lineno, str(node.module)[5:]))
        if isinstance(node, ast.Import):
            found += [(node.lineno, a.name[5:]) for a in node.names if a.name.startswith("rung.")]
    return found


def level_violations(room: str, below: str, tree: ast.AST) -> list[str]:
    """Imports that go sideways or upwards. `below` is the path inside the room."""
    problems = []
    for line, target in imported_rooms(tree):
        other = target.split(".")[0]
        if other == room:
            continue
        if LEVELS[other] >= LEVELS[room]:
            problems.append(f"{line}: {room} imports {target}")
        # The mechanism of the pipeline stays free of the rooms; only its stages may meet them.
        mechanism = room == "pipeline" and not below.startswith(("stages", "checks"))
        if mechanism and LEVELS[other] > 1 and not target.startswith("evaluate.statistics"):
            problems.append(f"{line}: pipeline mechanism imports {target}")
    return problems


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_downwards(path: Path) -> None:
    room = room_of(path)
    if room:
        below = "/".join(path.relative_to(SOURCE).parts[1:])
        assert level_violations(room, below, ast.parse(path.read_text())) == []


def test_the_level_check_sees_a_planted_violation() -> None:
    planted = ast.parse("from rung.engine.engine import Engine\nfrom rung.datagen.qc import figures\n")
    assert len(level_violations("scoring", "x.py", planted)) == 2
    assert level_violations("pipeline", "runner.py", planted)
    assert level_violations("pipeline", "stages/x.py", planted) == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_sizes_and_names(path: Path) -> None:
    text = path.read_text()
    assert path.stem not in FORBIDDEN_NAMES
    assert text.count("\n") <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 60, f"{node.name} is too long"
            positional = [a.arg for a in node.args.args if a.arg not in ("self", "cls")]
            assert len(positional) <= 5 or not path.is_relative_to(SOURCE), f"{node.name} takes {positional}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_our_imports_stand_at_the_top(path: Path) -> None:
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert imported_rooms(function) == [], f"{function.name} imports rung inside"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_every_public_name_is_documented(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module has no docstring"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                        assert ast.get_docstring(inner), f"{node.name}.{inner.name} has no docstring"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_is_swallowed(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: bare except"
            broad = isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"}
            if broad:
                raises = any(isinstance(n, ast.Raise) for n in ast.walk(node))
                uses = node.name and any(isinstance(n, ast.Name) and n.id == node.name for n in ast.walk(node))
                assert raises or uses, f"line {node.lineno}: a broad except that neither raises nor reports"


def modules_of(rooms: tuple[str, ...]) -> list[str]:
    names = []
    for path in FILES:
        if room_of(path) in rooms:
            parts = ["rung", *path.relative_to(SOURCE).with_suffix("").parts]
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def test_rooms_without_torch_import_without_torch() -> None:
    """Also: importing has no effects worth noticing (no output, no files, no threads left)."""
    lines = [
        "import sys, threading, importlib",
        *[f"importlib.import_module({name!r})" for name in modules_of(TORCH_FREE)],
        "assert 'torch' not in sys.modules, 'torch came in'",
        "assert 'transformers' not in sys.modules, 'transformers came in'",
        "assert threading.active_count() == 1, 'a thread was started'",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == ""


def settings_fields() -> list[tuple[Path, str, str]]:
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            is_settings = isinstance(node, ast.ClassDef) and any(
                isinstance(base, ast.Name) and base.id.endswith("Settings") for base in node.bases
            )
            if is_settings:
                assert isinstance(node, ast.ClassDef)
                found += [
                    (path, node.name, item.target.id)
                    for item in node.body
                    if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
                ]
    return found


def test_every_setting_is_read_somewhere() -> None:
    """A validated setting that nothing reads is a defect: its name must be used as an attribute in the source."""
    used = set()
    for path in FILES:
        used |= {n.attr for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)}
    # A manifest is itself the product: its fields are read by people and by the report, through model_dump.
    produced = {"manifest.py", "fingerprint.py", "shards.py"}
    unread = [f"{p.name}:{c}.{f}" for p, c, f in settings_fields() if f not in used and p.name not in produced]
    assert unread == []


FRAME_LITERAL = re.compile(r"###END###|\\nResponse:|Instruction: \{")


def test_the_frame_is_written_in_one_place() -> None:
    """Prompts have one home: no second literal of the canonical frame anywhere in the source."""
    allowed = {"records/chat/frame.py"}
    stray = []
    for path in FILES:
        name = str(path.relative_to(SOURCE))
        for node in ast.walk(ast.parse(path.read_text())):
            is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
            if is_text and FRAME_LITERAL.search(repr(node.value)) and name not in allowed:
                stray.append(f"{name}:{node.lineno}")
    assert stray == []


def test_models_are_loaded_in_one_place() -> None:
    """Spec items 51 and 85: no other load of a base model, no hand-set template anywhere else."""
    pattern = re.compile(r"from_pretrained\(|apply_chat_template|\.chat_template\s*=")
    allowed = ("models/", "train/adapters.py")
    stray = [
        str(p.relative_to(SOURCE))
        for p in FILES
        if pattern.search(p.read_text()) and not str(p.relative_to(SOURCE)).startswith(allowed)
    ]
    assert stray == []
    assert pattern.search("model = AutoModelForCausalLM.from_pretrained(name)")


def test_the_repository_is_clean() -> None:
    """No caches, checkpoints, logs or very large files are tracked (spec item 472)."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    names = done.stdout.split()
    bad = [n for n in names if re.search(r"__pycache__|\.lock$|\.ckpt|\.pt$|\.safetensors$|\.log$|\.partial$", n)]
    assert bad == []
    assert [n for n in names if (ROOT / n).is_file() and (ROOT / n).stat().st_size > 1_000_000] == []
