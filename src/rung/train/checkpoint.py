"""Checkpoints: everything that a run needs to go on as if it had never stopped, and nothing that can run code.

A checkpoint is a folder of safetensors and JSON that appears by one rename; the one before it is removed only after.
The learning rate, the data order and the random state are functions of (seed, step), so the step stands for them.

Of weights that are split over ranks each rank writes its own part (`rung.train.split_files`); either form is read by
any number of ranks. Ranks that train together all call these functions, with a folder that all of them see.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from rung.base.errors import DataError, Drift, StorageError
from rung.base.files import TEMPORARY_SUFFIX, publish, read_json, write_bytes, write_json
from rung.base.fingerprint import hash_file
from rung.base.lookup import lookup
from rung.models.parallel.laid_out import is_split
from rung.train.loss_scale import LossScale
from rung.train.ranks import barrier, is_first

__all__ = ["State", "TrainState", "load_best", "load_checkpoint", "load_state", "save_best", "save_checkpoint"]

_WEIGHTS, _OPTIMIZER, _STATE = "weights.safetensors", "optimizer.safetensors", "state.json"


@dataclass(frozen=True, slots=True)
class State:
    """Where any run stands. `step` steps are done; `best_step` names the best weights that were kept (-1: none);
    `identity` is the hash of what is trained on what, so that a checkpoint of another run is never taken for this
    one's; `hashes` are those of the checkpoint's files."""

    identity: str
    step: int = 0
    best_step: int = -1
    hashes: Mapping[str, str] = field(default_factory=dict)


S = TypeVar("S", bound=State)


@dataclass(frozen=True, slots=True)
class TrainState(State):
    """Where a run on fixed data stands. Curves are (step, value) pairs; `scale` is that of the next step's loss."""

    losses: tuple[tuple[int, float], ...] = ()
    validation: tuple[tuple[int, float], ...] = ()
    best_loss: float | None = None
    num_evaluations_since_best: int = 0
    stopped_early: bool = False
    num_targets: int = 0
    num_tokens: int = 0
    seconds: float = 0.0
    scale: LossScale | None = None


def save_checkpoint(
    scratch: Path, state: State, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> Path:
    """Write one checkpoint, whole or not at all, then remove older ones and best weights that nothing names any more.

    Raises:
        StorageError: the disk refused; the older checkpoint is still there.
    """
    final = scratch / f"checkpoint-{state.step:08d}"
    temporary = final.with_name(final.name + TEMPORARY_SUFFIX)
    if is_first():
        _make_room(temporary, scratch)
    barrier()
    try:
        hashes = _write(temporary, parameters, optimizer)
        if is_first():
            write_json(temporary / _STATE, replace(state, hashes=hashes))
            _clear(final)
            publish(temporary, final)
    except StorageError:
        if is_first():
            _clear(temporary)
        raise
    if is_first():
        kept = (final.name, _best_name(state.best_step))
        for old in [*scratch.glob("checkpoint-*"), *scratch.glob("best-*")]:
            if old.name not in kept:
                _clear(old)
    barrier()
    return final


def load_checkpoint(
    scratch: Path, identity: str, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> TrainState | None:
    """`load_state` of a run on fixed data."""
    return load_state(scratch, identity, parameters, optimizer, _state)


def load_state(
    scratch: Path,
    identity: str,
    parameters: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    read: Callable[[dict[str, Any]], S],
) -> S | None:
    """Put the newest checkpoint into the parameters and the optimizer; None when there is none. `read` makes the state
    out of what was stored.

    Raises:
        DataError: a checkpoint that is damaged.
        Drift: a checkpoint of other data, settings or parameters.
    """
    names = sorted(p for p in scratch.glob("checkpoint-*") if not p.name.endswith(TEMPORARY_SUFFIX))
    if not names:
        return None
    folder = names[-1]
    try:
        state = read(read_json(folder / _STATE))
        damaged = [name for name, digest in state.hashes.items() if hash_file(folder / name) != digest]
        tensors = {} if damaged else {name: _read(folder / name, parameters) for name in (_WEIGHTS, _OPTIMIZER)}
    except (OSError, ValueError, TypeError, KeyError, safetensors.SafetensorError) as error:
        raise DataError(
            f"cannot read the checkpoint: {error}", place=str(folder), hint="remove it to start over"
        ) from error
    if damaged:
        raise DataError(f"{damaged[0]} is damaged", place=str(folder), hint="remove the checkpoint to start over")
    if state.identity != identity:
        raise Drift(
            "the checkpoint is of other settings, data or parameters", place=str(folder), hint="remove it to start over"
        )
    _fill(parameters, tensors[_WEIGHTS], folder)
    _restore(parameters, optimizer, tensors[_OPTIMIZER])
    return state


def save_best(scratch: Path, step: int, parameters: Mapping[str, Tensor]) -> None:
    """Keep the weights of `step` until a checkpoint names a better one."""
    path = scratch / _best_name(step)
    if _split(parameters):
        _parts(path).write(parameters)
    elif is_first():
        write_bytes(path, _bytes(parameters))
    barrier()


def load_best(scratch: Path, step: int, parameters: Mapping[str, Tensor]) -> None:
    """Put the weights that `save_best` kept back.

    Raises:
        DataError: they are missing or damaged.
    """
    path = scratch / _best_name(step)
    try:
        tensors = _read(path, parameters)
    except (OSError, safetensors.SafetensorError) as error:
        raise DataError(f"cannot read the best weights: {error}", place=str(path)) from error
    _fill(parameters, tensors, path)


def _make_room(temporary: Path, scratch: Path) -> None:
    _clear(temporary)
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise StorageError(f"cannot write a checkpoint: {error.strerror}", place=str(scratch)) from error


def _write(folder: Path, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, str]:
    """Weights and moments, whole or in parts; returns the hashes of all files."""
    written = {_WEIGHTS: dict(parameters), _OPTIMIZER: _moments(parameters, optimizer)}
    if _split(parameters):
        return {
            f"{name}/{file}": digest
            for name, tensors in written.items()
            for file, digest in _parts(folder / name).write(tensors).items()
        }
    if is_first():
        for name, tensors in written.items():
            write_bytes(folder / name, _bytes(tensors))
    return {name: hash_file(folder / name) for name in written} if is_first() else {}


def _read(path: Path, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by name, split as the parameters are."""
    if not path.is_dir() and not _split(parameters):
        return safetensors.torch.load_file(path)
    return dict(_parts(path).read(lambda key: parameters.get(key.rpartition("|")[0] or key)))


def _split(parameters: Mapping[str, Tensor]) -> bool:
    return any(is_split(parameter) for parameter in parameters.values())


def _parts(path: Path) -> Any:
    """Loaded by name: torch's distributed checkpoint takes long to import."""
    return lookup("train", "split_files")(path)


def _best_name(step: int) -> str:
    return f"best-{step:08d}.safetensors"


def _bytes(tensors: Mapping[str, Tensor]) -> bytes:
    return safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})


def _moments(parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors under `parameter name|what`."""
    return {
        f"{name}|{key}": value
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def _restore(parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, saved: dict[str, Tensor]) -> None:
    optimizer.state.clear()
    for key, tensor in saved.items():
        name, _, what = key.rpartition("|")
        parameter = parameters[name]
        device = parameter.device if tensor.ndim or optimizer.defaults.get("fused") else torch.device("cpu")
        optimizer.state[parameter][what] = tensor.to(device)


def _fill(parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor], place: Path) -> None:
    if parameters.keys() != tensors.keys():
        raise DataError("the saved weights are of other parameters", place=str(place))
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def _state(values: dict[str, Any]) -> TrainState:
    curves = {key: tuple((int(a), float(b)) for a, b in values[key]) for key in ("losses", "validation")}
    scale = LossScale(**values["scale"]) if values.get("scale") else None
    return TrainState(**{**values, **curves, "scale": scale})


def _clear(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
