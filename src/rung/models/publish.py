"""A network and its tokenizer written in the published layout: what the loader reads, and transformers too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from rung.base.files import write_bytes, write_json
from rung.models.network import Network
from rung.records.tokenizer import Tokenizer

__all__ = ["publish"]


def publish(network: Network, tokenizer: Tokenizer, folder: Path) -> None:
    """Write config.json, model.safetensors, tokenizer.json and tokenizer_config.json into the folder.

    Raises:
        StorageError: the disk refused.
    """
    dtype = str(network.output_weight.dtype).removeprefix("torch.")
    config: dict[str, Any] = network.published_config()  # type: ignore[operator]
    config |= {"dtype": dtype, "eos_token_id": list(tokenizer.end_ids), "pad_token_id": tokenizer.pad_id}
    write_bytes(folder / "model.safetensors", safetensors.torch.save(_tensors(network), metadata={"format": "pt"}))
    write_bytes(folder / "tokenizer.json", tokenizer.inner.to_str(pretty=True).encode())
    write_json(folder / "tokenizer_config.json", _beside(tokenizer))
    write_json(folder / "config.json", config)


def _tensors(network: Network) -> dict[str, Tensor]:
    own = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    return {name: tensor.contiguous() for name, tensor in network.translation.write(own).items()}


def _beside(tokenizer: Tokenizer) -> dict[str, Any]:
    """What `tokenizer.json` does not say: which tokens end, fill and start."""
    name = tokenizer.inner.id_to_token
    said: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": name(tokenizer.pad_id)}
    if tokenizer.end_ids:
        said["eos_token"] = name(tokenizer.end_ids[0])
    if tokenizer.start_ids:
        said |= {"bos_token": name(tokenizer.start_ids[0]), "add_bos_token": True}
    return said
