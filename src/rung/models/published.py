"""The published layout, a folder with config.json, safetensors and tokenizer.json, read into network and tokenizer.

Nothing here reaches for a network, and nothing in the folder is executed or unpickled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import tokenizers
import torch
from tokenizers import processors
from torch import Tensor

from rung.base.errors import ModelError
from rung.base.lookup import known, lookup
from rung.models.found import weight_files
from rung.models.network import Network
from rung.records.tokenizer import Tokenizer

__all__ = ["Cleaned", "Opened", "open_network", "open_tokenizer", "read_config"]

CHAT_MARKER = re.compile(
    r"<\|?/?(start_of_turn|end_of_turn|im_start|im_end|im_sep|start_header_id|end_header_id|eot_id|eom_id|turn|channel"
    r"|message|user|assistant|system|end|start|bot|human|observation)\|?>|\[/?INST\]|\[/?SYSTEM_PROMPT\]|<</?SYS>>"
)


@dataclass(frozen=True)
class Opened:
    """A network read from disk: which family, which path, and what was worth noting."""

    network: Network
    family: str
    path: Literal["fast", "fallback"]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cleaned:
    """A tokenizer without templates, and what was taken out of it."""

    tokenizer: Tokenizer
    template_disabled: bool
    removed: tuple[str, ...] = field(default=())


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's `config.json`.

    Raises:
        ModelError: no such folder, no such file, not JSON, or without `model_type`.
    """
    if not folder.is_dir():
        raise ModelError("there is no such folder", place=str(folder), hint="check the path of the model")
    values = _json(folder / "config.json")
    if not values:
        raise ModelError(
            "the folder has no config.json", place=str(folder), hint="point to the folder that has the model's files"
        )
    if "model_type" not in values:
        raise ModelError("config.json does not name a model_type", place=str(folder / "config.json"))
    return values


def open_network(folder: Path, dtype: torch.dtype) -> Opened:
    """Build the network of a folder: by a family of ours, or by the fallback when none takes its config.

    Raises:
        ModelError: unknown architecture, or weights missing, unexpected or of other shapes.
    """
    config = read_config(folder)
    refusals = []
    for name in known("models.families"):
        family = lookup("models.families", name)
        if config["model_type"] in family.model_types:
            reason = family.refuses(config)
            if not reason:
                return Opened(_fast(family, config, folder, dtype), name, "fast")
            refusals.append(f"{name}: {reason}")
    why = "; ".join(refusals) or f"no family of ours builds '{config['model_type']}'"
    fallback = lookup("models.families", "fallback")
    return Opened(fallback.open(folder, dtype), "fallback", "fallback", (f"{why}: runs through transformers, slower",))


def open_tokenizer(folder: Path, config: Mapping[str, Any]) -> Cleaned:
    """Read `tokenizer.json`, take out templates, truncation and padding, and find the special ids.

    Raises:
        ModelError: there is none, or it is damaged.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(
            "the folder has no tokenizer.json",
            place=str(folder),
            hint="save one with transformers: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)",
        )
    inner = Tokenizer.load(path).inner
    beside = _json(folder / "tokenizer_config.json")
    template = _template(folder, beside)
    removed = _unlimited(inner)
    start_ids = _start_ids(inner, beside)
    removed += _unframed(inner)
    end_ids = _end_ids(inner, config, _json(folder / "generation_config.json"), beside)
    return Cleaned(
        Tokenizer(inner, start_ids, end_ids, _pad_id(inner, config, beside, end_ids), _template_ids(inner, template)),
        template_disabled=bool(template),
        removed=tuple(removed + (["chat template"] if template else [])),
    )


def _fast(family: Any, config: Mapping[str, Any], folder: Path, dtype: torch.dtype) -> Network:
    with torch.device("meta"):
        network: Network = family(family.from_config(config))
    read = family.translation.read(dict(_published(family, weight_files(folder))))
    # whole numbers are counts, which no type of weights may round
    found = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in read.items()}
    expected = network.state_dict()
    head = found.get("lm_head.weight")
    if head is not None and "lm_head.weight" not in expected and _equal(head, found.get(_embedding_name(network))):
        del found["lm_head.weight"]
    _check_names(found, expected, folder)
    network.load_state_dict(found, strict=True, assign=True)
    return network


def _embedding_name(network: Network) -> str:
    """The parameter that a tied output projection is."""
    return next((name for name, parameter in network.named_parameters() if parameter is network.output_weight), "")


def _published(family: Any, files: Iterable[Path]) -> Iterable[tuple[str, Tensor]]:
    for path in files:
        try:
            tensors = safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError) as error:
            raise ModelError(
                f"the weights cannot be read: {error}", place=str(path), hint="fetch them again"
            ) from error
        for name, tensor in tensors.items():
            if not any(part in name for part in family.ignored):
                yield _renamed(name, family.renames), tensor


def _renamed(name: str, renames: Iterable[tuple[str, str]]) -> str:
    for old, new in renames:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _check_names(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], folder: Path) -> None:
    missing, unexpected = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    reshaped = [
        f"{name} {list(found[name].shape)} instead of {list(expected[name].shape)}"
        for name in sorted(found.keys() & expected.keys())
        if found[name].shape != expected[name].shape
    ]
    problems = [
        f"{what}: {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        for what, names in (("missing", missing), ("unexpected", unexpected), ("reshaped", reshaped))
        if names
    ]
    if problems:
        raise ModelError(
            f"the weights do not fit config.json ({'; '.join(problems)})",
            place=str(folder),
            hint="config.json and weights must come from the same model",
        )


def _equal(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.shape == other.shape and bool(torch.equal(one, other))


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"not JSON: {error}", place=str(path), hint="fetch the file again") from error
    return values if isinstance(values, dict) else {}


def _template(folder: Path, beside: Mapping[str, Any]) -> str:
    """The chat template's text, from the tokenizer's config or from the file beside it."""
    in_file = folder / "chat_template.jinja"
    if in_file.is_file():
        return in_file.read_text(encoding="utf-8")
    found = beside.get("chat_template") or ""
    if isinstance(found, list):  # several named templates
        return "\n".join(str(entry.get("template", "")) for entry in found)
    return str(found)


def _start_ids(inner: tokenizers.Tokenizer, beside: Mapping[str, Any]) -> tuple[int, ...]:
    """What the tokenizer's own post-processing puts in front of a text, else the start token its config asks for."""
    framed = list(inner.encode("a", add_special_tokens=True).ids)
    bare = list(inner.encode("a", add_special_tokens=False).ids)
    for start in range(len(framed) - len(bare) + 1):
        if framed[start : start + len(bare)] == bare:
            if start:
                return tuple(framed[:start])
            break
    bos = _token_id(inner, beside.get("bos_token"))
    return (bos,) if beside.get("add_bos_token") and bos is not None else ()


def _unlimited(inner: tokenizers.Tokenizer) -> list[str]:
    """Take out truncation and padding; returns what there was, in words."""
    removed = []
    if inner.truncation:
        removed.append(f"truncation to {inner.truncation['max_length']} tokens")
    if inner.padding:
        removed.append("padding")
    inner.no_truncation()
    inner.no_padding()
    return removed


def _unframed(inner: tokenizers.Tokenizer) -> list[str]:
    """Take out post-processing; returns what it did, in words."""
    adds = inner.encode("a", add_special_tokens=True).ids != inner.encode("a", add_special_tokens=False).ids
    inner.post_processor = processors.Sequence([])
    return ["post-processing that adds special tokens"] if adds else []


def _end_ids(inner: tokenizers.Tokenizer, *sources: Mapping[str, Any]) -> tuple[int, ...]:
    found: list[int] = []
    for source in sources:
        ids = source.get("eos_token_id")
        named = _token_id(inner, source.get("eos_token"))
        found += ids if isinstance(ids, list) else [ids] if ids is not None else []
        found += [named] if named is not None else []
    return tuple(dict.fromkeys(found))


def _pad_id(
    inner: tokenizers.Tokenizer, config: Mapping[str, Any], beside: Mapping[str, Any], end_ids: tuple[int, ...]
) -> int:
    configured = config.get("pad_token_id")
    if isinstance(configured, int) and configured >= 0:
        return configured
    named = _token_id(inner, beside.get("pad_token"))
    return named if named is not None else (end_ids[0] if end_ids else 0)


def _token_id(inner: tokenizers.Tokenizer, token: Any) -> int | None:
    name = token.get("content") if isinstance(token, dict) else token
    return inner.token_to_id(name) if isinstance(name, str) else None


def _template_ids(inner: tokenizers.Tokenizer, template: str) -> frozenset[int]:
    """Chat markers: added tokens that look like one, or special ones that the template spells out."""
    return frozenset(
        index
        for index, token in inner.get_added_tokens_decoder().items()
        if CHAT_MARKER.fullmatch(token.content)
        or (token.special and len(token.content) > 4 and _spelled(token, template))
    )


def _spelled(token: tokenizers.AddedToken, template: str) -> bool:
    return token.content in template and not re.fullmatch(
        r"<\|?(bos|eos|pad|endoftext|begin_of_text)\|?>", token.content
    )
