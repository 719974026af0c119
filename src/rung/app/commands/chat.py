"""`rung chat`: talk to a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from rung.app.chat import HELP, Chat, Manner
from rung.app.runs import find_output, known_runs
from rung.base.errors import SettingsError
from rung.engine.engine import Engine
from rung.engine.settings import EngineSettings
from rung.models.load import load
from rung.records.manifest import FILE_NAME

__all__ = ["chat"]


def chat(runs: Path, model: str, questions: tuple[str, ...], out: Console, notes: Console, **manner: Any) -> None:
    """Answer `questions` and leave, or talk until /quit when there are none.

    Args:
        runs: folder of runs.
        model: a source such as `package:NAME`, or a stage that trained, as RUN/STAGE or a folder.
        questions: asked one after another.
        out: where answers go.
        notes: where everything else goes.
        manner: fields of `rung.app.chat.Manner`.
    """
    source = source_of(runs, model)
    with notes.status(f"loading {source}"):
        loaded = load(source, clean=False, strict=False)
    notes.print(Text(f"{source}: {loaded.family}, {loaded.precision}"), highlight=False)
    talk = Chat(Engine(loaded, EngineSettings(num_slots=1)), loaded.tokenizer, Manner(**manner))
    for question in questions:
        out.print(Text(f"> {question}", style="bold"))
        _say(talk, question, out)
    if not questions:
        _converse(talk, out, notes)


def source_of(runs: Path, model: str) -> str:
    """`run:FOLDER` for a stage's output, else the source as it is.

    Raises:
        DataError: RUN/STAGE where the run has no such stage.
        SettingsError: it names neither a kind of source nor a run.
    """
    if any((folder / FILE_NAME).is_file() for folder in (runs / model, Path(model))):
        return f"run:{find_output(runs, model).folder}"
    if ":" in model:
        return model
    if model.partition("/")[0] in known_runs(runs):
        return f"run:{find_output(runs, model).folder}"
    raise SettingsError(
        f"'{model}' is neither a source of models nor a stage of a run",
        place="MODEL",
        hint=f"package:NAME, hf:ORG/NAME, or RUN/STAGE of: {', '.join(known_runs(runs)) or 'no runs yet'}",
    )


def _converse(talk: Chat, out: Console, notes: Console) -> None:
    notes.print(Text(f"every question stands alone\n{HELP}"), style="dim", highlight=False)
    while True:
        try:
            line = out.input("[bold]> [/bold]").strip()
        except EOFError:
            return
        if line in ("/quit", "/exit"):
            return
        if line.startswith("/"):
            notes.print(Text(talk.command(line)), style="dim", highlight=False)
        elif line:
            _say(talk, line, out)


def _say(talk: Chat, question: str, out: Console) -> None:
    try:
        for piece in talk.answer(question):
            out.print(Text(piece), end="", soft_wrap=True, highlight=False)
    except KeyboardInterrupt:
        out.print(Text(" [stopped]", style="dim"), end="")
    out.print()
