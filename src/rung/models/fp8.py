"""Linear layers in FP8 (Micikevicius et al. 2022, "FP8 Formats for Deep Learning", arXiv 2209.05433), laid on from
outside by torchao for as long as a network is trained.

Each tensor of a product is scaled by its own largest entry before it is rounded: inputs and weights to E4M3, gradients
to E5M2; sums are of higher precision (torchao's recipe "tensorwise", the fastest). Weights stay what they are, so no
memory is saved, and the layers hold the very parameters that the network has. Time is saved where layers are wide, on
a GPU that has such products.

In FP8 are the linear layers inside the outermost lists of modules whose two dimensions are multiples of 16, the frozen
base below an adapter among them. Never: the output projection, embeddings, routers, an adapter's own narrow matrices,
a reward head; experts, which are no linear layers; a base in 4 bits. torchao works out the gradient of a frozen weight
all the same, so below an adapter there is less to gain. An input is cast to the type of the autocast it is under, as
torchao does on a GPU alone.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from rung.base.errors import MissingDependency, SettingsError
from rung.models.network import Network
from rung.models.recompute import outer_layers
from rung.models.size import num_in_products

__all__ = ["Fp8Path", "Fp8Report", "Fp8Wish", "exact", "fp8_of", "fp8_path", "in_fp8"]

Fp8Wish = Literal["no", "if_usable", "required", "simulated"]
Fp8Path = Literal["fp8", "simulated", "bfloat16"]
_RECIPE, _CAPABILITY, _MULTIPLE = "tensorwise", (8, 9), 16
_ROUTERS = ("gate", "router", "shared_expert_gate")
_PLACE = "training.fp8"


@dataclass(frozen=True, slots=True)
class Fp8Report:
    """What ran: FP8, the same simulated, or bfloat16 because of what `degraded` says. `num_layers` linear layers are in
    FP8; `share` is theirs of the multiply-adds of one token in the body, without attention's own."""

    path: Fp8Path
    recipe: str = ""
    num_layers: int = 0
    share: float = 0.0
    degraded: str = ""


@dataclass(frozen=True, slots=True)
class _Laid:
    report: Fp8Report
    plain: Mapping[str, nn.Module]
    narrow: Mapping[str, nn.Module]


_laid: WeakKeyDictionary[nn.Module, _Laid] = WeakKeyDictionary()


def fp8_path(wish: Fp8Wish, device: torch.device) -> tuple[Fp8Path, str]:
    """What a wish comes to on a device, and why it was not granted (empty where it was).

    Raises:
        MissingDependency: torchao is needed and is missing or does not load.
        SettingsError: FP8 is required and the device has none.
    """
    if wish == "no":
        return "bfloat16", ""
    lacking = "" if wish == "simulated" else _lacking(device)
    if lacking and wish == "required":
        raise SettingsError(
            f"no products in FP8 here: {lacking}",
            place=_PLACE,
            hint="train on a GPU of compute capability 8.9 or more, or set fp8: if_usable, or simulated to try it out",
        )
    missing = "" if lacking else _missing()
    if missing and wish != "if_usable":
        raise MissingDependency(
            f"FP8 needs torchao: {missing}", place=_PLACE, hint="pip install 'rung[fp8]', or leave fp8 out"
        )
    if reason := lacking or missing:
        return "bfloat16", f"products are in bfloat16: {reason}"
    return ("simulated" if wish == "simulated" else "fp8"), ""


@contextmanager
def in_fp8(network: Network, wish: Fp8Wish) -> Iterator[Fp8Report | None]:
    """Within it the network's linear layers are in FP8 as `wish` says; None when it says no. Afterwards they are what
    they were. Entered again inside, it changes nothing.

    Raises:
        MissingDependency: torchao is needed and is missing or does not load.
        SettingsError: FP8 is required and the device has none, or the network has no layer that could be in it.
    """
    if wish == "no" or network in _laid:
        yield fp8_of(network)
        return
    path, degraded = fp8_path(wish, network.output_weight.device)
    plain = _fitting(network) if path != "bfloat16" else {}
    if path != "bfloat16" and not plain:
        degraded = f"products are in bfloat16: no linear layer has two dimensions that are multiples of {_MULTIPLE}"
        if wish != "if_usable":
            raise SettingsError("the network has no layer that FP8 fits", place=_PLACE, hint=degraded)
    if not plain:
        report = Fp8Report("bfloat16", degraded=degraded)
    else:
        report = Fp8Report(path, _RECIPE, len(plain), _share(network, plain))
        _narrow(network, plain, simulated=path == "simulated")
    _laid[network] = _Laid(report, plain, {name: network.get_submodule(name) for name in plain})
    try:
        yield report
    finally:
        del _laid[network]
        _put(network, plain)


def fp8_of(network: nn.Module) -> Fp8Report | None:
    """What of the network is in FP8 now; None outside of `in_fp8`."""
    laid = _laid.get(network)
    return None if laid is None else laid.report


@contextmanager
def exact(network: nn.Module) -> Iterator[None]:
    """The network without FP8, inside of `in_fp8`: as it will be published. Not for one that is split over ranks."""
    laid = _laid.get(network)
    _put(network, laid.plain if laid else {})
    try:
        yield
    finally:
        _put(network, laid.narrow if laid else {})


def _lacking(device: torch.device) -> str:
    """Why the device has no products in FP8, empty when it has."""
    if device.type != "cuda" or torch.version.hip is not None:
        return f"they are for NVIDIA's GPUs, the network is on '{device.type}'"
    found = torch.cuda.get_device_capability(device)
    return "" if found >= _CAPABILITY else f"compute capability {found[0]}.{found[1]} is less than 8.9"


def _missing() -> str:
    """Why torchao does not load, empty when it does."""
    try:
        importlib.import_module("torchao.float8")
    except (ImportError, OSError) as error:
        return str(error)
    return ""


def _fitting(network: nn.Module) -> dict[str, nn.Linear]:
    """The layers that can be in FP8, under every name that they have."""
    inside = {id(module) for layer in outer_layers(network) for module in layer.modules()}
    return {
        name: module
        for name, module in network.named_modules(remove_duplicate=False)
        if id(module) in inside and type(module) is nn.Linear and _fits(name, module)
    }


def _fits(name: str, layer: nn.Linear) -> bool:
    parts = name.split(".")
    own = parts[-1] in _ROUTERS or parts[0] == "reward_head" or any(part.startswith("lora_") for part in parts)
    return not own and layer.in_features % _MULTIPLE == 0 and layer.out_features % _MULTIPLE == 0


def _share(network: nn.Module, layers: Mapping[str, nn.Linear]) -> float:
    body = sum(num_in_products(layer) for layer in outer_layers(network))
    return sum(layer.weight.numel() for layer in layers.values()) / body


def _narrow(network: nn.Module, layers: Mapping[str, nn.Module], *, simulated: bool) -> None:
    """torchao's layers in the place of these."""
    float8: Any = importlib.import_module("torchao.float8")
    # A row has any number of tokens, and the weight's gradient is summed over them: kernels want a multiple of 16.
    config = dataclasses.replace(
        float8.Float8LinearConfig.from_recipe_name(_RECIPE), emulate=simulated, pad_inner_dim=True
    )
    float8.convert_to_float8_training(network, module_filter_fn=lambda _, name: name in layers, config=config)
    for name, layer in layers.items():
        network.get_submodule(name).train(layer.training).register_forward_pre_hook(_cast)


def _cast(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    kind = inputs[0].device.type
    return (inputs[0].to(torch.get_autocast_dtype(kind)),) if torch.is_autocast_enabled(kind) else inputs


def _put(network: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    for name, layer in layers.items():
        parent, _, own = name.rpartition(".")
        layer.train(network.get_submodule(name).training)
        setattr(network.get_submodule(parent), own, layer)
