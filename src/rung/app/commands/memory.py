"""`rung memory`: what a training step holds, by part of the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from rung.app.commands.chat import source_of
from rung.base.errors import SettingsError
from rung.base.fingerprint import plain
from rung.base.lookup import known, lookup
from rung.base.settings import validate
from rung.models.initialise import stand_in
from rung.models.load import load
from rung.models.network import Network
from rung.pipeline.yaml_source import parse_value
from rung.train.adapters import prepare
from rung.train.memory import Kept, StepMemory, step_memory
from rung.train.settings import AdapterSettings

__all__ = ["memory"]

_FAMILIES = "models.families"


@dataclass(frozen=True, slots=True)
class _Asked:
    tokens: int
    row: int
    precision: Any
    optimizer: str
    rank: int


def memory(runs: Path, model: str, changes: Sequence[str], consoles: tuple[Console, Console], **asked: Any) -> None:
    """Measure and print.

    Args:
        runs: folder of runs.
        model: FAMILY/SIZE, a source such as `package:NAME`, or a stage that trained.
        changes: KEY=VALUE, settings of the family that differ from the size.
        consoles: where the table goes, and where everything else goes.
        asked: `tokens` of a document, `row` (tokens of a micro-batch), `precision`, `optimizer`, and the `rank` of the
            adapter (0: every weight is trained).

    Raises:
        SettingsError: an unknown size, setting, model or optimizer, or documents that are too long.
    """
    how, (out, notes) = _Asked(**asked), consoles
    with notes.status(f"measuring {model}"):
        network, said = _network(runs, model, changes)
        adapter = AdapterSettings(rank=how.rank) if how.rank else AdapterSettings(kind="none")
        made = prepare(network, adapter, seed=0)
        found = step_memory(network, how.tokens, precision=how.precision, optimizer=how.optimizer)
    trained = f"{made.num_trainable:,} of {made.num_total:,} parameters are trained by {how.optimizer}, {how.precision}"
    out.print(_view(found, how, f"{said}\n{trained}"))


def _network(runs: Path, model: str, changes: Sequence[str]) -> tuple[Network, str]:
    """What is measured, and how it is told."""
    family, _, size = model.partition("/")
    if family not in known(_FAMILIES):
        if changes:
            raise SettingsError(f"'{model}' is as it is", place="--change", hint="change a FAMILY/SIZE")
        source = source_of(runs, model)
        return load(source, clean=False, strict=False).network, source
    kind = lookup(_FAMILIES, family)
    if size not in kind.SIZES:
        raise SettingsError(f"'{family}' has no size '{size}'", place="MODEL", hint=f"known: {', '.join(kind.SIZES)}")
    pairs = [change.partition("=") for change in changes]
    said = {key: parse_value(value, f"--change {key}") for key, _, value in pairs}
    settings = validate(kind.Settings, {**plain(kind.SIZES[size]), **said}, "--change")
    network = stand_in(lambda: kind(settings))
    told = ", ".join((model, *changes))
    return network, f"{told}: {network.shape.num_layers} layers, whose weights share one memory while they are measured"


def _view(found: StepMemory, how: _Asked, said: str) -> RenderableType:
    table = Table(box=None, padding=(0, 1))
    table.add_column("MiB", no_wrap=True)
    for column in ("weights", "gradients", "state", "kept", "a token", "again", "a token"):
        table.add_column(column, justify="right")
    for name, one in found.parts.items():
        if one.weights or one.kept.of(how.row):
            held = (one.weights, one.gradients, one.state)
            table.add_row(name, *map(_mib, held), *_cells(one.kept), *_cells(one.recomputed))
    sums = [sum(getattr(one, name) for one in found.parts.values()) for name in ("weights", "gradients", "state")]
    table.add_row("all", *map(_mib, sums), *_cells(_sum(found, recompute=False)), *_cells(_sum(found, recompute=True)))
    total, again = (found.total(how.row, recompute=way) / 2**30 for way in (False, True))
    lines = (
        "state: the optimizer's. kept: from a row's forward pass to its backward pass, of every row, and besides of "
        "each token in KiB; again: the same with recompute",
        f"a row of {how.row:,} tokens in documents of {how.tokens:,}: {total:.2f} GiB in all; with recompute "
        f"{again:.2f} GiB, and {found.layer.of(how.row) / 2**30:.2f} GiB while the largest layer is computed again",
    )
    return Group(Text(said), table, *map(Text, lines))


def _sum(found: StepMemory, *, recompute: bool) -> Kept:
    fixed = found.kept(0, recompute=recompute)
    return Kept(fixed, found.kept(1, recompute=recompute) - fixed)


def _cells(kept: Kept) -> tuple[str, str]:
    return _mib(kept.fixed), f"{kept.per_token / 2**10:,.1f}"


def _mib(num_bytes: float) -> str:
    return f"{num_bytes / 2**20:,.1f}"
