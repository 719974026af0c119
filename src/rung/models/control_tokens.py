"""Control tokens: single ids with embeddings of their own, by which a network is told or tells what kind of text comes.

A tokenizer that is trained from scratch gets them by name; here an existing one, and the network that reads it, are
given them. Every new row begins at the mean of the others with a little noise of its own (Hewitt 2021, "Initializing
New Word Embeddings for Pretrained Language Models"), so no new token is as likely as all others together.

Legend: V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import tokenizers
import torch
from torch import Tensor

from rung.base.errors import ModelError
from rung.base.seeds import derive
from rung.models.families.fallback import Fallback
from rung.models.network import Network
from rung.records.tokenizer import Tokenizer

__all__ = ["CONTROL_TOKENS", "with_control_tokens"]

CONTROL_TOKENS = ("<thought>", "</thought>", "<clarify>")
_NOISE = 0.1
"""Deviation of a new row's noise, as a share of the other rows' deviation."""


def with_control_tokens(
    network: Network, tokenizer: Tokenizer, tokens: Sequence[str] = CONTROL_TOKENS, seed: int = 0
) -> tuple[Network, Tokenizer]:
    """A network and a tokenizer that know these tokens; what is given stays as it is, and tokens that it knows already
    keep their ids and rows.

    Raises:
        ModelError: a wrapped network, whose rows are not ours to add.
    """
    if isinstance(network, Fallback):
        raise ModelError("a wrapped network cannot be given tokens", hint="use a model that a family of rung builds")
    known = tokenizer.inner.get_vocab(with_added_tokens=True)
    fresh = [token for token in tokens if token not in known]
    inner = tokenizers.Tokenizer.from_str(tokenizer.inner.to_str())
    inner.add_special_tokens([tokenizers.AddedToken(token, normalized=False, special=True) for token in fresh])
    places = inner.get_vocab(with_added_tokens=True)
    ids = {token: places[token] for token in fresh}
    return _enlarged(network, ids, seed), replace(tokenizer, inner=inner)


def _enlarged(network: Any, ids: dict[str, int], seed: int) -> Network:
    """The same network with rows for these ids, whether it had spare ones or has to get more."""
    num_rows = max([network.shape.vocabulary, *(index + 1 for index in ids.values())])
    with torch.device("meta"):
        larger: Network = type(network)(network.settings.model_copy(update={"vocabulary": num_rows}))
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    for name in _row_names(network):
        state[name] = _with_rows(state[name], num_rows, ids, derive(seed, "control tokens", name))
    larger.load_state_dict(state, strict=True, assign=True)
    for name, parameter in larger.named_parameters():
        parameter.requires_grad_(network.get_parameter(name).requires_grad)
    return larger.train(network.training)


def _row_names(network: Any) -> list[str]:
    """The parameters with a row for every token: those that change with the vocabulary."""
    with torch.device("meta"):
        other = type(network)(network.settings.model_copy(update={"vocabulary": network.shape.vocabulary + 1}))
    own = dict(network.named_parameters())
    return [name for name, parameter in other.named_parameters() if parameter.shape != own[name].shape]


def _with_rows(rows_VD: Tensor, num_rows: int, ids: dict[str, int], seed: int) -> Tensor:
    used_VD = rows_VD[: min([len(rows_VD), *ids.values()])].float()
    mean_D, deviation_D = used_VD.mean(0), used_VD.std(0)
    larger = torch.cat([rows_VD, mean_D.to(rows_VD).expand(num_rows - len(rows_VD), -1)])
    for token, index in ids.items():
        draw = torch.Generator().manual_seed(derive(seed, token))
        noise_D = torch.randn(len(mean_D), generator=draw).to(mean_D.device)
        larger[index] = (mean_D + _NOISE * deviation_D * noise_D).to(rows_VD)
    return larger
