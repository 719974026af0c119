"""Tiny networks and rollouts sampled from them by a dense reference, for tests of the policy step."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from rung.models.families.gemma3 import Gemma3
from rung.models.families.llama import Llama
from rung.models.layers.attend import CausalAttend
from rung.models.network import Network
from rung.records.rollout import Rollout, Support


def stirred(network: Network, seed: int = 5, amount: float = 0.25) -> Network:
    """Random weights large enough that logits differ and attention matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += amount * torch.randn(parameter.shape, generator=generator)
    return network


def llama() -> Network:
    return stirred(Llama.build(Llama.SIZES["tiny"]))


def gemma() -> Network:
    return stirred(Gemma3.build(Gemma3.SIZES["tiny"]))


NETWORKS = {"llama": llama, "gemma": gemma}


def dense_logits(network: Network, token_ids: Sequence[int]) -> Tensor:
    """Logits [T, V] of one sequence, alone and whole."""
    ids = torch.tensor([list(token_ids)])
    hidden = network.hidden(ids, torch.arange(ids.shape[1])[None], CausalAttend())[0]
    logits = hidden @ network.output_weight.T
    return network.softcap * torch.tanh(logits / network.softcap) if network.softcap else logits


def dense_logprobs(network: Network, rollout: Rollout) -> Tensor:
    """Of the rollout's sampled tokens [N], differentiable: the definition, one sequence at a time."""
    ids = [*rollout.prompt_ids, *rollout.token_ids]
    logits = dense_logits(network, ids)[len(rollout.prompt_ids) - 1 : -1] / rollout.temperature
    if rollout.supports:
        masks = [np.ones(logits.shape[1], bool) if s is None else s.mask(logits.shape[1]) for s in rollout.supports]
        logits = logits.masked_fill(~torch.from_numpy(np.stack(masks)), -torch.inf)
    logprobs = logits.log_softmax(1)
    chosen = logprobs[range(len(rollout.token_ids)), list(rollout.token_ids)]
    return chosen[torch.tensor(rollout.sampled, dtype=torch.bool)]


def rollouts(
    network: Network,
    *,
    groups: Sequence[int] = (3, 2, 1),
    temperature: float = 1.0,
    inserted: bool = True,
    supports: bool = False,
    seed: int = 0,
) -> list[Rollout]:
    """`groups[g]` samples of each prompt, of uneven length, some with tokens that were inserted; with `supports`, some
    places had a few tokens to choose from, some half the vocabulary, some one and some all."""
    draw, found = random.Random(seed), []
    size = network.shape.vocabulary
    for group, count in enumerate(groups):
        prompt = tuple(draw.randrange(size) for _ in range(draw.randint(3, 9)))
        for number in range(count):
            length = draw.randint(1, 12)
            token_ids = tuple(draw.randrange(size) for _ in range(length))
            sampled = [not (inserted and length > 4 and 2 <= at <= 3) for at in range(length)]
            if inserted and length > 8:
                sampled[-1] = False
            held = tuple(_support(draw, token, size) for token in token_ids) if supports else ()
            rollout = Rollout(
                f"{group}-{number}", group, prompt, token_ids, tuple(sampled), (0.0,) * length, temperature, held,
                tuple(draw.random() for _ in range(length)), draw.random() < 0.5,
            )  # fmt: skip
            found.append(with_logprobs(network, rollout))
    return found


def with_logprobs(network: Network, rollout: Rollout) -> Rollout:
    """What a sampler with these weights would have recorded."""
    with torch.no_grad():
        values = iter(dense_logprobs(network, rollout).tolist())
    return replace(rollout, logprobs=tuple(next(values) if s else 0.0 for s in rollout.sampled))


def _support(draw: random.Random, token: int, size: int) -> Support | None:
    wanted = draw.choice([None, 1, 4, 5, size // 2])
    if wanted is None:
        return None
    others = draw.sample([i for i in range(size) if i != token], wanted - 1)
    return Support.of_ids([token, *others], size)
