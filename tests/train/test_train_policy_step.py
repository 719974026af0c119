"""From sampled tokens to an update: log-probabilities are the sampler's, and the update is that of the definition."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from policy_models import NETWORKS, dense_logprobs, llama, rollouts

from rung.base.lookup import part
from rung.models.network import Network
from rung.records.rollout import Rollout
from rung.train.adapters import AdapterSettings, prepare
from rung.train.policy import policy_batch
from rung.train.policy_step import Sample, policy_step, rollout_logprobs

BIG = 100_000


def objective(name: str, **settings: Any) -> Any:
    kind, own = part("train.objectives", {"kind": name, **settings})
    return kind(own)


def samples_of(found: list[Rollout], *, old: bool = True, reference: bool = True, seed: int = 1) -> list[Sample]:
    """Advantages that differ per token, old log-probabilities a little off, some tokens that do not count."""
    draw, samples = random.Random(seed), []
    for rollout in found:
        num = len(rollout.token_ids)
        near = [p + 0.3 * draw.random() - 0.15 for p in rollout.logprobs]
        further = [p + draw.random() - 0.5 for p in rollout.logprobs]
        samples.append(
            Sample(
                rollout,
                tuple(draw.choice([-1.0, 0.5, 2.0]) for _ in range(num)),
                tuple(draw.random() < 0.9 for _ in range(num)),
                tuple(draw.random() < 0.7 for _ in range(num)),
                tuple(near) if old else None,
                tuple(further) if reference else None,
            )
        )
    return samples


class Kept:
    """An optimizer that changes nothing and keeps the gradients that it was given."""

    def __init__(self, network: Network) -> None:
        self.param_groups = [{"params": [p for p in network.parameters() if p.requires_grad], "lr": 0.0}]
        self.grads: list[torch.Tensor] = []

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    def step(self) -> None:
        self.grads = [
            p.grad.clone() if p.grad is not None else torch.zeros_like(p) for p in self.param_groups[0]["params"]
        ]


def stepped(network: Network, samples: list[Sample], loss: Any, **changes: Any) -> tuple[Any, list[torch.Tensor]]:
    kept = Kept(network)
    settings = {"learning_rate": 1.0, "clip": 0.0, "precision": "float32", "tokens_per_micro_batch": BIG}
    return policy_step(network, kept, samples, loss, **{**settings, **changes}), kept.grads


def defined(network: Network, samples: list[Sample], loss: Any) -> tuple[float, list[torch.Tensor], Any]:
    """The same update by its definition: every sequence alone and whole, all logits, one batch."""
    logprobs, columns, sequences = [], {"old": [], "advantages": [], "reference": [], "kl": []}, []
    for number, sample in enumerate(samples):
        rollout = sample.trained()
        chosen = [at for at, s in enumerate(rollout.sampled) if s]
        own = dense_logprobs(network, rollout)
        logprobs.append(own)
        old = own.tolist() if sample.old_logprobs is None else [sample.old_logprobs[at] for at in chosen]
        columns["old"] += old
        columns["advantages"] += [sample.advantages[at] for at in chosen]
        columns["reference"] += [sample.reference_logprobs[at] for at in chosen] if sample.reference_logprobs else []
        columns["kl"] += [float(sample.kl[at]) for at in chosen]
        sequences += [number] * len(chosen)
    flat = torch.cat(logprobs)
    tensors = {name: torch.tensor(values) for name, values in columns.items()}
    batch = policy_batch(
        flat, torch.ones_like(flat, dtype=torch.bool), old_logprobs=tensors["old"], advantages=tensors["advantages"],
        sequences=torch.tensor(sequences), kl_mask=tensors["kl"],
        reference_logprobs=tensors["reference"] if len(tensors["reference"]) else None,
    )  # fmt: skip
    found = loss.policy_loss(batch)
    total = loss.weight(torch.tensor([s.trained().num_sampled for s in samples]))
    parameters = [p for p in network.parameters() if p.requires_grad]
    grads = torch.autograd.grad(found.total / total, parameters, allow_unused=True)
    filled = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)]
    return float(found.total) / total, filled, found.figures


def close(ours: list[torch.Tensor], theirs: list[torch.Tensor], tolerance: float = 1e-5) -> None:
    """Within the tolerance, relative to the largest entry of each tensor."""
    for one, other in zip(ours, theirs, strict=True):
        assert float((one - other).abs().max()) <= tolerance * max(float(other.abs().max()), 1e-3)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("supports", [False, True])
@pytest.mark.parametrize("max_tokens", [BIG, 20])
def test_log_probabilities_are_those_of_each_sequence_alone(name, temperature, supports, max_tokens) -> None:
    network = NETWORKS[name]()
    found = rollouts(network, temperature=temperature, supports=supports)
    told = rollout_logprobs(network, found, precision="float32", tokens_per_micro_batch=max_tokens)
    for rollout, own in zip(found, told, strict=True):
        assert own == pytest.approx(rollout.logprobs, abs=2e-5)
        assert [p for p, s in zip(own, rollout.sampled, strict=True) if not s] == [0.0] * rollout.sampled.count(False)


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("grpo", {"kl_coefficient": 0.1}),
        ("dapo", {"kl_coefficient": 0.1}),
        ("dr_grpo", {"max_tokens": 40, "kl_coefficient": 0.1}),
        ("gspo", {"kl_coefficient": 0.1}),
    ],
)
def test_an_update_is_that_of_its_definition(name: str, kind: str, settings: dict[str, Any], adapted: bool) -> None:
    """Shared prompts, several rows and micro-batches against every sequence alone, for all weights and for LoRA."""
    network = NETWORKS[name]()
    if adapted:
        prepare(network, AdapterSettings(rank=2, alpha=4), seed=0)
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    loss = objective(kind, **settings)
    samples = samples_of(rollouts(network, temperature=0.7, supports=True))
    value, grads, figures = defined(network, samples, loss)
    for max_tokens in (BIG, 40, 15):
        report, own = stepped(network, samples, loss, tokens_per_micro_batch=max_tokens)
        assert report.loss == pytest.approx(value, abs=1e-5)
        close(own, grads)
        assert report.num_trained == sum(s.trained().num_sampled for s in samples)
        assert report.figures.ratio == pytest.approx(figures.ratio, rel=1e-5)
        assert report.figures.kl == pytest.approx(figures.kl, rel=1e-4)
        assert report.figures.num_tokens == figures.num_tokens


def test_shared_and_plain_packing_have_the_same_gradient(monkeypatch) -> None:
    network = llama()
    samples = samples_of(rollouts(network, groups=(8, 5, 1)))
    loss = objective("grpo")
    _, shared = stepped(network, samples, loss)
    read = []
    hidden = network.hidden
    monkeypatch.setattr(network, "hidden", lambda ids, *rest: (read.append(ids.shape[1]), hidden(ids, *rest))[1])
    report, _ = stepped(network, samples, loss)
    prompts = {(s.rollout.group): len(s.rollout.prompt_ids) for s in samples}
    own = [s.trained() for s in samples]
    ahead = sum(max(at for at, x in enumerate(r.sampled) if x) for r in own if r.num_sampled)
    assert read == [sum(prompts.values()) + ahead]  # every prompt once, and no token that predicts nothing
    assert report.num_tokens == read[0]
    monkeypatch.setattr("rung.train.policy_step._can_share", lambda network: False)
    _, plain = stepped(network, samples, loss)
    assert read[1] == read[0] + sum(
        len(s.rollout.prompt_ids) for s, r in zip(samples, own, strict=True) if r.num_sampled
    ) - sum(prompts.values())
    close(shared, plain)
