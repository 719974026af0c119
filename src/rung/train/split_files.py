"""Tensors that are split over ranks, on disk: torch's distributed checkpoint in safetensors, so that no file can run
code. Each rank writes what it holds; a reader of any number of ranks takes from the parts what it is to hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, distribute_tensor, zeros

from rung.base.errors import StorageError
from rung.base.fingerprint import hash_file
from rung.train.ranks import is_first

__all__ = ["SplitFiles"]

_SCALAR = "#"
"""After the name of a tensor without dimensions, which is written as one of a single entry."""


class SplitFiles:
    """A folder of them, or one file of whole ones to be split on reading. All ranks of a job call the same together."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, tensors: Mapping[str, Tensor]) -> dict[str, str]:
        """Write them, from all ranks; returns the hashes of the files, on rank 0.

        Raises:
            StorageError: the disk refused.
        """
        flat = {key + ("" if t.ndim else _SCALAR): t.detach().reshape(t.shape or (1,)) for key, t in tensors.items()}
        try:
            save(flat, storage_writer=HuggingFaceStorageWriter(str(self._path), save_distributed=True))
        except (OSError, CheckpointException) as error:
            raise StorageError(f"cannot write a part of a checkpoint: {error}", place=str(self._path)) from error
        return {path.name: hash_file(path) for path in sorted(self._path.iterdir())} if is_first() else {}

    def read(self, like: Callable[[str], Tensor | None]) -> dict[str, Tensor]:
        """What is there; each tensor is split as `like` of its name is, where that has the same shape.

        Raises:
            ValueError, SafetensorError: a file is damaged.
        """
        if self._path.is_file():
            return {key: _part(like(key), t) for key, t in safetensors.torch.load_file(self._path).items()}
        reader = HuggingFaceStorageReader(str(self._path))
        known = reader.read_metadata().state_dict_metadata
        wanted = {key: _room(like(key), info) for key, info in known.items() if isinstance(info, TensorStorageMetadata)}
        try:
            load(wanted, storage_reader=reader)
        except CheckpointException as error:
            raise ValueError(str(error)) from error
        return {key.removesuffix(_SCALAR): t.reshape(()) if key.endswith(_SCALAR) else t for key, t in wanted.items()}


def _part(like: Tensor | None, tensor: Tensor) -> Tensor:
    """A whole tensor split as `like` is; each rank keeps its part, nothing is sent."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def _room(like: Tensor | None, info: TensorStorageMetadata) -> Tensor:
    if isinstance(like, DTensor) and info.size == like.shape:
        return zeros(info.size, dtype=info.properties.dtype, device_mesh=like.device_mesh, placements=like.placements)
    device = like.device if like is not None else torch.device("cpu")
    return torch.empty(info.size, dtype=info.properties.dtype, device=device)
