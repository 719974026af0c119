"""A head on a network: put on, taken off, saved beside the adapter and loaded again.

The head is a submodule of the network, so that whatever trains or saves parameters by name finds it; it is taken off
before the network is hashed or published as weights. A saved head is two files: safetensors, and JSON with its kind,
its settings, its shape and the facts that its owner wants back.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from rung.base.errors import ModelError
from rung.base.files import read_json, write_bytes, write_json
from rung.base.fingerprint import plain
from rung.base.lookup import part
from rung.base.settings import Settings
from rung.models.network import Network

__all__ = ["HEAD_CONFIG", "attach_head", "build_head", "has_head", "head_outputs", "load_head", "save_head", "take_off"]

HEAD_CONFIG = "reward_head.json"
_WEIGHTS, _NAME = "reward_head.safetensors", "reward_head"
Spec = str | dict[str, Any]


def build_head(spec: Spec, width: int, num_outputs: int, seed: int = 0) -> nn.Module:
    """A fresh head; `spec` is a part of `rung.models.heads`, its name or `{kind: name, ...settings}`.

    Raises:
        SettingsError: unknown, or with impossible settings.
    """
    kind, settings = part("models.heads", spec, "head")
    head: nn.Module = kind(settings, width, num_outputs, seed)
    return head


def attach_head(network: Network, head: nn.Module) -> None:
    """Put a head on the network, on its device; its parameters keep whether they are trained.

    Raises:
        ModelError: there is one already.
    """
    if has_head(network):
        raise ModelError("the model already has a head", hint="take it off first")
    network.add_module(_NAME, head.to(network.output_weight.device))


def has_head(network: nn.Module) -> bool:
    """Whether a head is on the network."""
    return hasattr(network, _NAME)


def take_off(network: nn.Module) -> nn.Module:
    """The network's head, which it then has no more.

    Raises:
        ModelError: there is none.
    """
    head = _head(network)
    delattr(network, _NAME)
    return head


def head_outputs(network: nn.Module, hidden_ND: Tensor) -> Tensor:
    """What the network's head says of hidden states, [N, K] in float32.

    Raises:
        ModelError: there is no head.
    """
    outputs_NK: Tensor = _head(network)(hidden_ND)
    return outputs_NK


def save_head(head: nn.Module, spec: Spec, facts: Settings, folder: Path) -> None:
    """Write a head that was built from `spec`; equal heads give equal bytes.

    Raises:
        StorageError: the disk refused.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(head.state_dict().items())}
    num_outputs = weights["weight"].shape[0]
    write_bytes(folder / _WEIGHTS, safetensors.torch.save(weights))
    write_json(folder / HEAD_CONFIG, {"head": spec, "num_outputs": num_outputs, "facts": plain(facts)})


def load_head(folder: Path, width: int) -> tuple[nn.Module, Mapping[str, Any]]:
    """A saved head for a network of that width, frozen, and its facts.

    Raises:
        ModelError: the files cannot be read, or hold a head of another width.
    """
    try:
        values = read_json(folder / HEAD_CONFIG)
        head = build_head(values["head"], width, int(values["num_outputs"]))
        head.load_state_dict(safetensors.torch.load_file(folder / _WEIGHTS), strict=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        raise ModelError(
            f"the head cannot be loaded: {str(error).splitlines()[0]}",
            place=str(folder),
            hint="load it on the model that it was trained on",
        ) from error
    return head.requires_grad_(False).eval(), values["facts"]


def _head(network: nn.Module) -> nn.Module:
    if not has_head(network):
        raise ModelError("the model has no head", hint="attach one first")
    return network.get_submodule(_NAME)
