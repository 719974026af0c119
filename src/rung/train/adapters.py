"""What is trained: low-rank adapters on a frozen base (LoRA, Hu et al., 2021; DoRA, which trains the length of each
output's weights apart from their direction, Liu et al., 2024), or every weight.

The adapter is peft's own: its modules, its names, its two files (adapter_model.safetensors, adapter_config.json), so
peft and transformers load what rung trained and the other way round. rung's part is one fused product: without dropout,
base and low-rank path are one autograd node that keeps only the input and the narrow activation. DoRA runs on peft's
own path, which is slower.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import peft
import safetensors
import safetensors.torch
import torch
from peft.tuners.lora.layer import Linear as PeftLinear
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn
from torch.nn import functional

from rung.base.errors import MissingDependency, ModelError
from rung.base.files import write_bytes, write_json
from rung.models.layers.projection import product
from rung.models.network import Network
from rung.train.settings import ALL_PROJECTIONS, AdapterSettings, StackSettings

__all__ = [
    "WHOLE_WEIGHTS",
    "AdapterReport",
    "as_begun",
    "attach_adapter",
    "base_hash",
    "has_adapter",
    "merge",
    "prepare",
    "save_adapter",
    "save_weights",
    "stack_adapter",
    "switch_off",
    "trainable",
]

WHOLE_WEIGHTS = "weights.safetensors"
_NAME, _UPPER, _PREFIX = "default", "upper", "base_model.model."
_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_Way = Literal["lora", "dora", "qlora", "qdora", "full"]
_IN_4_BITS: dict[str, _Way] = {"lora": "qlora", "dora": "qdora"}


@dataclass(frozen=True, slots=True)
class AdapterReport:
    """Which path ran (q: on a 4-bit base), its trainable share, and why a wish was not granted."""

    path: _Way
    num_trainable: int
    num_total: int
    degraded: str = ""


def prepare(network: Network, settings: AdapterSettings, seed: int) -> AdapterReport:
    """Put a fresh adapter on the network and freeze the rest (or, kind none, set every weight to be trained).

    A fresh adapter changes nothing: its second matrix is zero. The first is drawn from `seed` alone. Weights that are
    all trained are held in float32: in bfloat16 most steps would be rounded away.

    Raises:
        ModelError: the network already has an adapter, or has no projection of the names in `targets`.
        MissingDependency: 4 bits are required and bitsandbytes is missing or does not work on this device.
    """
    _refuse_second(network)
    if settings.kind == "none":
        if settings.quantise == "required":
            raise ModelError("every weight cannot be trained in 4 bits", place="adapter", hint="set kind: lora")
        network.float().requires_grad_(True)
        return _report(network, "full", "")
    network.requires_grad_(False)
    reason = _quantise(network, settings) if settings.quantise != "no" else ""
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=_targets(network, settings.targets),
        use_dora=settings.kind == "dora",
        task_type="CAUSAL_LM",
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _inject(network, config)
    packed = settings.quantise != "no" and not reason
    return _report(network, _IN_4_BITS[settings.kind] if packed else settings.kind, reason)


def stack_adapter(network: Network, settings: StackSettings, seed: int) -> AdapterReport:
    """Freeze the adapter that is on the network and put a fresh one over it, which alone is trained.

    As long as the fresh one is as it began, its second matrix zero, the network is exactly what it was: the reference
    of preference training, without a second model. `save_adapter` writes the two as the one adapter that is their sum.

    Raises:
        ModelError: there is no adapter, there are two already, it is no plain one, or a projection of the names in
            `targets` is missing.
    """
    if _UPPER in getattr(network, "peft_config", {}):
        raise ModelError("the model already has two adapters", hint="save them as one, and attach that")
    _config(network)
    layers = [m for m in network.modules() if isinstance(m, LoraLayer)]
    if any(m.lora_variant for m in layers):
        raise ModelError("only a plain LoRA adapter can be frozen under another", hint="merge it into the base first")
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=_targets(network, settings.targets),
        task_type="CAUSAL_LM",
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _inject(network, config, _UPPER)
    for layer in (m for m in network.modules() if isinstance(m, LoraLayer)):
        layer.set_adapter([_NAME, _UPPER])
        if _NAME in layer.lora_dropout:
            layer.lora_dropout[_NAME] = nn.Identity()
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(f".{_UPPER}." in name)
    return _report(network, "lora", "")


def trainable(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name, in the network's order."""
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


def save_adapter(network: Network, folder: Path) -> None:
    """Write the adapter as peft does; equal weights give equal bytes, and no path of this machine is written.

    Two stacked adapters are written as one: their matrices side by side, scales multiplied in.

    Raises:
        ModelError: there is no adapter.
        StorageError: the disk refused.
    """
    config, stacked = _config(network), _UPPER in getattr(network, "peft_config", {})
    tensors, own = _side_by_side(network) if stacked else (_adapter(network), {})
    weights = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    values = {**config.to_dict(), **own, "inference_mode": True, "base_model_name_or_path": None}
    values = {k: sorted(v) if isinstance(v, (set, frozenset)) else v for k, v in values.items()}
    write_bytes(folder / _WEIGHTS, safetensors.torch.save(weights, metadata={"format": "pt"}))
    write_json(folder / _CONFIG, dict(sorted(values.items())))


def save_weights(network: Network, path: Path) -> None:
    """Write every weight to one safetensors file under its published name; tied weights under each of theirs.

    Raises:
        StorageError: the disk refused.
    """
    places: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for name, weight in network.state_dict().items():
        tensor = weight.detach().cpu().contiguous()
        tensors[name] = tensor.clone() if tensor.data_ptr() in places else tensor
        places.add(tensor.data_ptr())
    write_bytes(path, safetensors.torch.save(tensors, metadata={"format": "pt"}))


def attach_adapter(network: Network, folder: Path) -> None:
    """Put a saved adapter (rung's or peft's) on the network, frozen and ready to generate.

    Raises:
        ModelError: the folder holds no whole adapter, one of another kind, or one that does not fit this network.
    """
    _refuse_second(network)
    try:
        config = peft.LoraConfig(**_known(json.loads((folder / _CONFIG).read_text(encoding="utf-8"))))
        weights = safetensors.torch.load_file(folder / _WEIGHTS)
    except (OSError, ValueError, TypeError, safetensors.SafetensorError) as error:
        raise ModelError(f"cannot read an adapter: {error}", place=str(folder)) from error
    network.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        _inject(network, config)
    own = _adapter(network)
    wrong = sorted(own.keys() ^ weights.keys())
    wrong += sorted(k for k in own.keys() & weights.keys() if own[k].shape != weights[k].shape)
    if wrong:
        _remove(network)
        raise ModelError(
            f"the adapter does not fit the model: {len(wrong)} tensors differ, the first is {wrong[0]}",
            place=str(folder),
            hint="attach it to the model it was trained on",
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(weights[name])
    network.requires_grad_(False)


@contextlib.contextmanager
def switch_off(network: nn.Module) -> Iterator[None]:
    """The base model alone, in the same process and memory; without an adapter nothing changes."""
    layers = [m for m in network.modules() if isinstance(m, LoraLayer)]
    states = [(layer, bool(layer.disable_adapters)) for layer in layers]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, state in states:
            layer._disable_adapters = state


@contextlib.contextmanager
def as_begun(network: nn.Module) -> Iterator[None]:
    """The network as it was before training: without its adapter, or of two stacked ones without the upper."""
    if _UPPER not in getattr(network, "peft_config", {}):
        with switch_off(network):
            yield
        return
    layers = [m for m in network.modules() if isinstance(m, LoraLayer)]
    states = [(layer, layer._active_adapter) for layer in layers]
    for layer in layers:
        layer._active_adapter = [_NAME]
    try:
        yield
    finally:
        for layer, state in states:
            layer._active_adapter = state


def has_adapter(network: nn.Module) -> bool:
    """Whether an adapter is on the network, so that what it was before is still there."""
    return bool(getattr(network, "peft_config", None))


def merge(network: Network) -> None:
    """Add the adapter to the base weights and take it off; the network is then a plain one.

    Raises:
        ModelError: there is no adapter, it gives NaN, or the base is held in 4 bits (merging would round it twice).
    """
    _config(network)
    layers = [m for m in network.modules() if isinstance(m, LoraLayer)]
    if any(not isinstance(m, PeftLinear) for m in layers):
        raise ModelError("an adapter cannot be merged into a 4-bit base", hint="merge it into the unquantised model")
    try:
        for layer in layers:
            layer.merge(safe_merge=True)
    except ValueError as error:
        for layer in layers:
            if layer.merged:
                layer.unmerge()
        raise ModelError(f"the adapter cannot be merged: {error}") from error
    _remove(network)


def base_hash(network: nn.Module) -> str:
    """SHA-256 over the weights that are not the adapter's, under their published names: equal before and after.

    Of two stacked adapters the frozen one counts as base.
    """
    digest, stacked = hashlib.sha256(), _UPPER in getattr(network, "peft_config", {})
    mark = f".{_UPPER}." if stacked else ".lora_"
    named = [(n.replace(".base_layer.", "."), p) for n, p in network.named_parameters() if mark not in n]
    for name, parameter in sorted(named, key=lambda pair: pair[0]):
        raw = parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        digest.update(name.encode() + b"\0" + str(parameter.dtype).encode() + b"\0")
        digest.update(raw.data)
    return digest.hexdigest()


class _FusedLinear(PeftLinear):  # type: ignore[misc]
    """peft's layer with the common cases in one node: one adapter or two stacked, no dropout, one precision."""

    def forward(self, x: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        """The projection with its adapter; see `_LowRank` for what is kept for the backward pass."""
        names = [name for name in self.active_adapters if name in self.lora_A]
        base = self.base_layer
        plain = type(base) is nn.Linear and base.bias is None and not base.weight.requires_grad
        if self.disable_adapters or self.merged or not plain or not names or arguments or keywords:
            return super().forward(x, *arguments, **keywords)  # type: ignore[no-any-return]
        drops = self.training and any(not isinstance(self.lora_dropout[name], nn.Identity) for name in names)
        first, second, scale = _low_rank(self, names)
        same = x.dtype == first.dtype == base.weight.dtype and not torch.is_autocast_enabled(x.device.type)
        if drops or not same or self.lora_variant:
            return super().forward(x)  # type: ignore[no-any-return]
        if not torch.is_grad_enabled():
            flat, out = x.reshape(-1, x.shape[-1]), product(x, base.weight)
            out.view(-1, out.shape[-1]).addmm_(flat @ first.T, second.T, alpha=scale)
            return out
        return _LowRank.apply(x, base.weight, first, second, scale)  # type: ignore[no-untyped-call,no-any-return]


class _LowRank(torch.autograd.Function):
    """x W' + scale (x A') B'. Saves x and x A'; the product is added into the base's output in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, *adapter: Any) -> Tensor:
        """The output, [..., O]; keeps the flat input and its narrow product."""
        first_RD, second_OR, scale = adapter
        flat = x.reshape(-1, x.shape[-1])
        narrow = flat @ first_RD.T
        output = functional.linear(flat, weight)
        output.addmm_(narrow, second_OR.T, alpha=scale)
        ctx.save_for_backward(flat, narrow, weight, first_RD, second_OR)
        ctx.scale, ctx.shape = scale, x.shape
        return output.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the input and of the two adapter matrices."""
        flat, narrow, weight, first_RD, second_OR = ctx.saved_tensors
        grad = gradients[0].reshape(-1, weight.shape[0])
        grad_narrow = (grad @ second_OR).mul_(ctx.scale)
        grad_second = (grad.T @ narrow).mul_(ctx.scale) if ctx.needs_input_grad[3] else None
        grad_first = grad_narrow.T @ flat if ctx.needs_input_grad[2] else None
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ weight
            grad_x.addmm_(grad_narrow, first_RD)
            grad_x = grad_x.view(ctx.shape)
        return grad_x, None, grad_first, grad_second, None


def _low_rank(layer: Any, names: list[str]) -> tuple[Tensor, Tensor, float]:
    """A layer's two matrices and their scale; of several adapters side by side, with their scales multiplied in."""
    firsts, seconds = [layer.lora_A[n].weight for n in names], [layer.lora_B[n].weight for n in names]
    if len(names) == 1:
        return firsts[0], seconds[0], layer.scaling[names[0]]
    scaled = [second * layer.scaling[name] for name, second in zip(names, seconds, strict=True)]
    return torch.cat(firsts), torch.cat(scaled, 1), 1.0


def _targets(network: Network, asked: tuple[str, ...]) -> list[str]:
    """The projections that get an adapter. The usual seven are those of them that the network has: a plain feed-forward
    layer has no gate, and experts are no projections."""
    if asked != ALL_PROJECTIONS:
        return sorted(asked)
    found = {n.rsplit(".", 1)[-1] for n, m in network.named_modules() if isinstance(m, (nn.Linear, LoraLayer))}
    return sorted(found & set(asked)) or sorted(asked)


def _inject(network: Network, config: Any, name: str = _NAME) -> None:
    config._register_custom_module({nn.Linear: _FusedLinear})
    if type(config.target_modules) is not str:
        suffixes = tuple(config.target_modules or ())
        found = {n.rsplit(".", 1)[-1] for n, m in network.named_modules() if isinstance(m, (nn.Linear, LoraLayer))}
        if missing := [t for t in suffixes if t.rsplit(".", 1)[-1] not in found]:
            raise ModelError(
                f"the model has no projection called '{sorted(missing)[0]}'",
                place="adapter.targets",
                hint=f"it has: {', '.join(sorted(found))}",
            )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # a second adapter is wanted
        peft.inject_adapter_in_model(config, network, adapter_name=name)


def _remove(network: nn.Module) -> None:
    """Put every base layer back in its adapter's place; whatever was merged stays merged."""
    for path, module in list(network.named_modules()):
        if isinstance(module, LoraLayer):
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, module.get_base_layer())
    del network.peft_config


def _adapter(network: nn.Module) -> dict[str, Tensor]:
    """The adapter's parameters under peft's names in files (the adapter's own name left out)."""
    return {
        _PREFIX + name.replace(f".{_NAME}.", "."): parameter
        for name, parameter in network.named_parameters()
        if ".lora_" in name
    }


def _side_by_side(network: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Stacked adapters as one under peft's names, and what its configuration says instead of the frozen one's.

    A layer that has less rank than the others, or only one of the two, is filled up with zeros.
    """
    layers = {path: m for path, m in network.named_modules() if isinstance(m, LoraLayer)}
    joined = {path: _low_rank(m, [n for n in (_NAME, _UPPER) if n in m.lora_A]) for path, m in layers.items()}
    rank, tensors = max(len(first) for first, _, _ in joined.values()), {}
    for path, (first_RD, second_OR, scale) in joined.items():
        more = rank - len(first_RD)
        tensors[f"{_PREFIX}{path}.lora_A.weight"] = functional.pad(first_RD, (0, 0, 0, more))
        tensors[f"{_PREFIX}{path}.lora_B.weight"] = functional.pad(second_OR * scale, (0, more))
    targets = sorted({path.rpartition(".")[2] for path in layers})
    own = {"r": rank, "lora_alpha": float(rank), "target_modules": targets, "lora_dropout": 0.0, "use_rslora": False,
           "rank_pattern": {}, "alpha_pattern": {}, "layers_to_transform": None, "layers_pattern": None}  # fmt: skip
    return tensors, own


def _config(network: nn.Module) -> Any:
    configs = getattr(network, "peft_config", None)
    if not configs:
        raise ModelError("the model has no adapter", hint="attach one first")
    return configs[_NAME]


def _refuse_second(network: nn.Module) -> None:
    if getattr(network, "peft_config", None):
        raise ModelError("the model already has an adapter", hint="merge it, or load the model again")


def _known(values: dict[str, Any]) -> dict[str, Any]:
    """Fields of this peft version; a file of a newer one may say more, and what it says must then be nothing."""
    if values.get("peft_type") != "LORA":
        raise ValueError(f"the adapter is of kind {values.get('peft_type')}, only LORA can be attached")
    fields = peft.LoraConfig.__dataclass_fields__
    acting = sorted(k for k, v in values.items() if k not in fields and v)
    if acting:
        raise ValueError(f"the adapter uses '{acting[0]}', which the installed peft does not know")
    return {k: v for k, v in values.items() if k in fields and k != "peft_type"}


def _report(network: Network, path: _Way, degraded: str) -> AdapterReport:
    num_total = sum(p.numel() for p in network.parameters())
    return AdapterReport(path, sum(p.numel() for p in trainable(network).values()), num_total, degraded)


def _quantise(network: Network, settings: AdapterSettings) -> str:
    """Swap the target projections for 4-bit ones; returns why that was not possible, empty when it was."""
    try:
        _quantise_targets(network, settings.targets)
    except (ImportError, RuntimeError, NotImplementedError, OSError) as error:
        if settings.quantise == "required":
            raise MissingDependency(
                f"a 4-bit base needs a working bitsandbytes: {error}",
                place="adapter.quantise",
                hint="pip install 'rung[quantised]', or set quantise: if_usable",
            ) from error
        return f"the base is not quantised, plain LoRA runs: {error}"
    return ""


def _quantise_targets(network: Network, targets: tuple[str, ...]) -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ImportError("bitsandbytes is not installed")
    layers = importlib.import_module("bitsandbytes.nn")
    built: list[tuple[str, nn.Module]] = []
    for path, module in network.named_modules():
        if isinstance(module, nn.Linear) and path.rpartition(".")[2] in targets:
            packed = layers.Linear4bit(
                module.in_features, module.out_features, bias=module.bias is not None, compute_dtype=module.weight.dtype
            )
            packed.weight = layers.Params4bit(module.weight.detach().clone(), requires_grad=False, quant_type="nf4")
            if module.bias is not None:
                packed.bias = nn.Parameter(module.bias.detach().clone(), requires_grad=False)
            packed = packed.to(module.weight.device)
            with torch.no_grad():
                packed(torch.zeros(1, module.in_features, dtype=module.weight.dtype, device=module.weight.device))
            built.append((path, packed))
    for path, packed_module in built:
        parent, _, name = path.rpartition(".")
        setattr(network.get_submodule(parent), name, packed_module)
    network.is_loaded_in_4bit = True  # type: ignore[assignment]  # peft picks its 4-bit layer by this mark
