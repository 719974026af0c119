"""`rung serve`: a model that stays loaded, behind OpenAI's interface."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from rung.app.choices import Choices
from rung.app.commands.chat import source_of
from rung.app.logging import LogSink
from rung.app.server.key import find_key
from rung.app.server.settings import LimitSettings, ServeSettings
from rung.base.errors import Interrupted, MissingDependency
from rung.base.events import Events
from rung.base.settings import validate
from rung.engine.engine import Engine
from rung.engine.online import Online, OnlineSettings
from rung.engine.settings import EngineSettings
from rung.models.load import load
from rung.pipeline.interrupt import StopRequest
from rung.pipeline.stages._model import model_facts

__all__ = ["serve"]

_LOOK_SECONDS = 0.1


def serve(
    model: str, choices: Choices, notes: Console, listening: Mapping[str, Any], *, slots: int, max_queue: int,
    max_context: int = 0, device: str = "cpu", clean: bool = False,
) -> None:  # fmt: skip
    """Serve until Ctrl-C or SIGTERM; then take nothing new and let what runs end.

    Args:
        model: a source such as `package:NAME`, or a stage that trained, as RUN/STAGE or a folder.
        choices: where runs lie, and the log.
        notes: where the address, the key and the log go.
        listening: fields of `ServeSettings` and of its `LimitSettings`, by name.
        slots: sequences decoded at once.
        max_queue: sequences that may wait.
        max_context: longest prompt plus new tokens; 0 is what the model allows.
        device: where the weights go.
        clean: judge the model as the guard judges a base model, so that a recipe's critics may use it.

    Raises:
        MissingDependency: the extra `serve` is not installed.
        SettingsError: options that contradict each other, or an address that cannot be listened on.
        Interrupted: requests had to be given up when the server stopped.
    """
    _check_installed()
    settings = _settings(listening)
    key, shown = find_key(settings, os.environ)
    source = source_of(choices.runs, model)
    running = importlib.import_module("rung.app.server.running")
    listener = running.listen(settings)
    log = choices.log.model_copy(update={"level": "error"}) if choices.quiet else choices.log
    events, facts = Events([LogSink(log, notes)], command="serve"), dict[str, Any]()

    def open_engine() -> Engine:
        """Load the model; called again when a request comes after a release."""
        loaded = load(source, clean=clean, strict=False, device=device)
        facts.update(model_facts(loaded))
        return Engine(loaded, EngineSettings(num_slots=slots, max_context=max_context), events=events)

    with notes.status(f"loading {source}"):
        online = Online(open_engine, OnlineSettings(max_waiting=max_queue), events)
    create_app = importlib.import_module("rung.app.server.factory").create_app
    app = create_app(online, model, settings, key, events, facts=lambda: facts)
    with StopRequest(lambda _: None) as stop, running.Running(app, listener) as server:
        _say(notes, server.address, model, settings, shown)
        while server.alive and not stop.requested():
            server.wait(_LOOK_SECONDS)
        notes.print(Text(f"stopping: what runs may take {settings.stop_seconds} s more; once more ends it at once"))
        num_given_up = online.close(settings.stop_seconds)
    if num_given_up:
        raise Interrupted(f"{num_given_up} answers were given up", hint="their clients were told; --stop-seconds")


def _check_installed() -> None:
    for name in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(name) is None:
            raise MissingDependency(f"serving needs {name}", hint="pip install 'rung[serve]'")


def _settings(listening: Mapping[str, Any]) -> ServeSettings:
    own = {name: value for name, value in listening.items() if name not in LimitSettings.model_fields}
    limits = {name: value for name, value in listening.items() if name in LimitSettings.model_fields}
    return validate(ServeSettings, {**own, "limits": limits}, "serve")


def _say(notes: Console, address: str, model: str, settings: ServeSettings, key: str) -> None:
    notes.print(Text(f"serving {model} on {address}/v1"), soft_wrap=True, highlight=False)
    if key:
        notes.print(Text(f"key, shown only now: {key}"), soft_wrap=True, highlight=False)
        notes.print(Text(f"set {settings.key_env} to keep one"), style="dim", highlight=False)
    if settings.no_key:
        notes.print(Text("no key: every program on this machine may use it"), style="yellow", highlight=False)
