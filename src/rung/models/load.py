"""The clean loader: the one way a model comes into rung.

A source is `kind:rest`, where the kind is a file in models/sources (`hf:`, `dir:`, `gguf:`, `package:`, `run:`,
`tiny:`). The tokenizer loses its chat template and adds nothing by itself; the guard then checks tokens always and,
for a base model, behaviour.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import peft
import safetensors
import safetensors.torch
import torch

from rung.base.errors import ModelError
from rung.models import guard
from rung.models.cache import Cache
from rung.models.found import Found, find
from rung.models.network import Network
from rung.models.precision import DTYPES, Precision, PrecisionChoice, choose
from rung.models.published import Cleaned, Opened, open_network, open_tokenizer, read_config
from rung.models.report import LoaderReport
from rung.records.tokenizer import Tokenizer

__all__ = ["Loaded", "load", "replace_weights"]


@dataclass(frozen=True)
class Loaded:
    """A model ready for use: `network` in evaluation mode, no parameter trainable until an adapter says so."""

    network: Network
    tokenizer: Tokenizer
    family: str
    path: Literal["fast", "fallback"]
    precision: str
    source: str
    content_id: str
    report: LoaderReport

    @property
    def clean(self) -> bool:
        """Whether the guard found a base model; what `Capabilities.clean` says."""
        return self.report.verdict == "clean"


def load(
    source: str,
    *,
    precision: Precision = "auto",
    strict: bool = True,
    allow: Sequence[str] = (),
    cache: Path | None = None,
    clean: bool = True,
    device: str = "cpu",
) -> Loaded:
    """Load a model.

    Args:
        source: `kind:rest`.
        precision: "float32", "bfloat16", or "auto", which measures this machine once.
        strict: whether a failed check of the guard stops the load (template tokens always do).
        allow: checks of `guard.CHECKS` that may fail; what failed is recorded as an override.
        cache: folder for converted weights, default RUNG_CACHE or ~/.cache/rung.
        clean: False loads a model that need not be a base model; behaviour is then not judged.
        device: where the network goes.

    Raises:
        SettingsError: an unknown kind of source or check.
        ModelError: not found, broken, or of an unknown architecture.
        GuardFailed: not a clean base model.
        MissingDependency: a package that is not installed.
    """
    guard.check_names(allow)
    store = Cache(cache)
    found = find(source, store)
    choice = choose(precision, device, store)
    opened, cleaned = _open(found, choice)
    opened.network.to(device=device).eval().requires_grad_(False)
    outcome = guard.judge(
        opened.network,
        cleaned.tokenizer,
        guard.Subject(f"{found.content_id}-{choice.precision}", source, found.unjudged if clean else "not asked for"),
        guard.Policy(strict, tuple(allow)),
        store,
    )
    report = _report(source, found, (opened, cleaned), choice, outcome).model_copy(update={"strict": strict})
    return Loaded(
        network=opened.network,
        tokenizer=cleaned.tokenizer,
        family=opened.family,
        path=opened.path,
        precision=choice.precision,
        source=source,
        content_id=found.content_id,
        report=report,
    )


def _report(
    source: str, found: Found, read: tuple[Opened, Cleaned], choice: PrecisionChoice, outcome: guard.Outcome
) -> LoaderReport:
    opened, cleaned = read
    return LoaderReport(
        model_name=source,
        content_id=found.content_id,
        family=opened.family,
        path=opened.path,
        precision=choice.precision,
        precision_reason=choice.reason(),
        template_disabled=cleaned.template_disabled,
        removed=cleaned.removed,
        start_ids=cleaned.tokenizer.start_ids,
        sentinel_results=outcome.results,
        verdict=outcome.verdict,
        reasons=outcome.reasons,
        overrides=outcome.overrides,
        degraded=(*found.notes, *opened.notes),
    )


def _open(found: Found, choice: PrecisionChoice) -> tuple[Opened, Cleaned]:
    dtype = DTYPES[choice.precision]
    # adapters are merged before rounding: a merge in bfloat16 loses what was learned
    changed = found.weights is not None or bool(found.adapters)
    opened, cleaned = _base(found, torch.float32 if changed else dtype)
    return (_applied(opened, found, dtype) if changed else opened), cleaned


def _base(found: Found, dtype: torch.dtype) -> tuple[Opened, Cleaned]:
    if found.make is not None:
        made = found.make()
        return Opened(made.network.to(dtype), made.family, "fast"), Cleaned(made.tokenizer, template_disabled=False)
    if found.folder is None:
        raise ModelError("the source found neither a folder nor a way to make a network", place=found.content_id)
    cleaned = open_tokenizer(found.folder, read_config(found.folder))
    opened = open_network(found.folder, dtype)
    _check_vocabulary(opened.network, cleaned.tokenizer, found.folder)
    return opened, cleaned


def _applied(opened: Opened, found: Found, dtype: torch.dtype) -> Opened:
    network = opened.network
    if found.weights is not None:
        replace_weights(network, found.weights)
    for folder in found.adapters:
        try:
            config = peft.PeftConfig.from_pretrained(str(folder))
            # peft's wrapper for a task wants transformers' generation methods, which a network of ours does not have
            config.task_type = None
            network = peft.PeftModel.from_pretrained(network, str(folder), config=config).merge_and_unload()
            # what is merged must not count as an adapter that is still on
            network.__dict__.pop("peft_config", None)
        except (ValueError, KeyError, OSError, RuntimeError, safetensors.SafetensorError) as error:
            raise ModelError(
                f"the adapter does not fit the base model: {str(error).splitlines()[0]}", place=str(folder)
            ) from error
    return dataclasses.replace(opened, network=network.to(dtype))


def replace_weights(network: Network, path: Path) -> None:
    """Fill a network with all weights of a safetensors file, each in the precision that the network has.

    Raises:
        ModelError: it cannot be read, or does not fit.
    """
    try:
        network.load_state_dict(safetensors.torch.load_file(path), strict=True)
    except (RuntimeError, safetensors.SafetensorError, OSError) as error:
        raise ModelError(f"the weights do not fit the base model: {error}", place=str(path)) from error


def _check_vocabulary(network: Network, tokenizer: Tokenizer, folder: Path) -> None:
    highest = max(tokenizer.inner.get_vocab(with_added_tokens=True).values(), default=0)
    if highest >= network.shape.vocabulary:
        raise ModelError(
            f"the tokenizer has id {highest}, the network only {network.shape.vocabulary} rows",
            place=str(folder),
            hint="tokenizer.json and the weights must come from the same model",
        )
