"""From sampled tokens to an update: log-probabilities are the sampler's, and the update is that of the definition."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from policy_models import NETWORKS, dense_logprobs, llama, rollouts
from tests.engine.engine_models import reference

from rung.base.errors import DataError, ModelError
from rung.base.lookup import part
from rung.models.families.fallback import Fallback
from rung.models.network import Network
from rung.records.rollout import Rollout
from rung.train.adapters import AdapterSettings, prepare
from rung.train.importance import ImportanceSettings
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


def off_by_a_little(rollout: Rollout) -> Rollout:
    """As if another kernel had sampled it."""
    return replace(rollout, logprobs=tuple(p + 0.1 * ((7 * at) % 5 - 2) for at, p in enumerate(rollout.logprobs)))


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
    return float(found.total.detach()) / total, filled, found.figures


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


def test_the_order_of_samples_and_what_was_inserted_change_nothing() -> None:
    network, loss = llama(), objective("grpo", kl_coefficient=0.1)
    samples = samples_of(rollouts(network))
    report, grads = stepped(network, samples, loss)
    shuffled = random.Random(4).sample(samples, len(samples))
    again, moved = stepped(network, shuffled, loss)
    assert again.loss == pytest.approx(report.loss, abs=1e-6)
    close(moved, grads)

    def told(sample: Sample, value: float) -> Sample:
        """The sample with this in every place that is not trained."""
        trained = sample.trained().sampled
        return replace(
            sample,
            advantages=tuple(a if t else value for a, t in zip(sample.advantages, trained, strict=True)),
            old_logprobs=tuple(p if t else value for p, t in zip(sample.old_logprobs or (), trained, strict=True)),
        )

    _, poisoned = stepped(network, [told(sample, float("nan")) for sample in samples], loss)
    assert all(torch.equal(one, other) for one, other in zip(poisoned, grads, strict=True))


def test_samples_that_train_nothing_are_not_read_and_change_nothing() -> None:
    network, loss = llama(), objective("dapo")
    samples = samples_of(rollouts(network), reference=False)
    idle = [replace(sample, counts=(False,) * len(sample.counts)) for sample in samples_of(rollouts(network, seed=9))]
    report, grads = stepped(network, samples, loss)
    again, same = stepped(network, [*samples, *[replace(s, reference_logprobs=None) for s in idle]], loss)
    assert (again.num_tokens, again.loss) == (report.num_tokens, report.loss)
    close(same, grads)
    with pytest.raises(DataError, match="no trained token"):
        stepped(network, [replace(sample, reference_logprobs=None) for sample in idle], loss)


@pytest.mark.parametrize("name", ["grpo", "dapo", "gspo", "cispo", "sapo", "gmpo"])
def test_what_moves_nothing_counts_and_is_not_read(name: str) -> None:
    """A group of equal rewards without KL: the divisor and the gradient are those of all samples."""
    network = llama()
    own = samples_of(rollouts(network))
    idle = [replace(s, advantages=(0.0,) * len(s.advantages)) if s.rollout.group == 0 else s for s in own]
    free, held = objective(name, kl_coefficient=0.0), objective(name, kl_coefficient=0.1)
    report, grads = stepped(network, idle, free)
    loss, wanted, _ = defined(network, idle, free)
    assert report.loss == pytest.approx(loss, abs=1e-5)
    close(grads, wanted)
    read = [stepped(network, samples, loss)[0].num_tokens for samples, loss in ((own, free), (idle, held))]
    assert read[0] == read[1] > report.num_tokens, "where the KL acts they are read"
    silent = [replace(s, kl=(False,) * len(s.kl)) for s in idle]
    assert stepped(network, silent, held)[0].num_tokens == report.num_tokens
    nothing = [replace(s, advantages=(0.0,) * len(s.advantages)) for s in own]
    nil, none = stepped(network, nothing, free)
    assert (nil.loss, nil.num_tokens) == (0.0, 0)
    assert not any(bool(grad.any()) for grad in none)


def test_a_first_update_needs_no_old_log_probabilities() -> None:
    """The current ones stand in for them: the same update, one forward pass fewer, and a ratio of exactly 1."""
    network, loss = llama(), objective("grpo", kl_coefficient=0.0)
    fresh = samples_of(rollouts(network), old=False, reference=False)
    told = rollout_logprobs(network, [sample.rollout for sample in fresh])
    report, grads = stepped(network, fresh, loss)
    again, same = stepped(network, [replace(s, old_logprobs=p) for s, p in zip(fresh, told, strict=True)], loss)
    assert (report.figures.ratio, report.figures.ratio_max, report.figures.drift) == (1.0, 1.0, 0.0)
    assert again.loss == pytest.approx(report.loss, abs=1e-6)
    close(same, grads, 1e-4)


def test_kl_is_zero_at_the_reference_and_positive_elsewhere() -> None:
    network, loss = llama(), objective("grpo", kl_coefficient=0.1)
    samples = samples_of(rollouts(network), old=False, reference=False)
    told = rollout_logprobs(network, [sample.rollout for sample in samples])
    held = [replace(s, reference_logprobs=p) for s, p in zip(samples, told, strict=True)]
    assert 0 <= stepped(network, held, loss)[0].figures.kl < 1e-9
    assert stepped(network, samples_of(rollouts(network)), loss)[0].figures.kl > 0.01
    with pytest.raises(DataError, match="some samples"):
        stepped(network, [*held[:2], *samples[2:]], loss)


def test_entropies_are_the_samplers() -> None:
    network = llama()
    samples = samples_of(rollouts(network), reference=False)
    entropies = [e for s in samples for e, t in zip(s.rollout.entropies, s.trained().sampled, strict=True) if t]
    for max_tokens in (BIG, 15):
        report, _ = stepped(network, samples, objective("dapo"), tokens_per_micro_batch=max_tokens)
        assert report.figures.entropy == pytest.approx(sum(entropies) / len(entropies), rel=1e-5)
    bare = [replace(s, rollout=replace(s.rollout, entropies=())) for s in samples]
    assert stepped(network, [*bare[:1], *samples[1:]], objective("dapo"))[0].figures.entropy is None


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("mode", ["weigh", "bypass", "off"])
def test_the_mismatch_is_the_same_however_the_step_was_split(mode: str, level: str) -> None:
    network, loss = llama(), objective("dapo")
    found = rollouts(network)
    samples = samples_of([off_by_a_little(rollout) for rollout in found], reference=False)
    importance = ImportanceSettings(mode=mode, level=level, high=1.1, low=0.95)
    whole, grads = stepped(network, samples, loss, importance=importance)
    split, same = stepped(network, samples, loss, importance=importance, tokens_per_micro_batch=15)
    close(same, grads)
    for name in ("mean_log", "max_log", "kl", "mean_weight", "max_weight", "chi_square", "bounded"):
        assert getattr(split.mismatch, name) == pytest.approx(getattr(whole.mismatch, name), rel=1e-4, abs=1e-6), name
    trained = [t for s in samples for t in s.trained().sampled]
    sampler = [p for s in samples for p in s.rollout.logprobs]
    trainer = [
        p for s, r in zip(samples, found, strict=True) for p in (r.logprobs if mode == "bypass" else s.old_logprobs)
    ]
    gaps = [o - p for o, p, t in zip(trainer, sampler, trained, strict=True) if t]
    assert whole.mismatch.mean_log == pytest.approx(sum(gaps) / len(gaps), abs=1e-5)
    assert whole.mismatch.max_log == pytest.approx(max(map(abs, gaps)), abs=1e-5)
    unweighed = stepped(network, samples, loss, importance=ImportanceSettings(mode="off"))[1]
    moved = max(float((one - other).abs().max()) for one, other in zip(grads, unweighed, strict=True))
    assert (moved > 1e-3) == (mode != "off")
    assert stepped(network, samples, loss)[0].mismatch is None


def test_an_update_that_is_not_finite_leaves_the_weights_alone() -> None:
    network = llama()
    samples = samples_of(rollouts(network), reference=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    before = [p.clone() for p in network.parameters()]
    endless = [replace(s, advantages=(1e38,) * len(s.advantages)) for s in samples]
    with pytest.raises(ModelError, match="diverged"):
        policy_step(network, optimizer, endless, objective("dapo"), learning_rate=1.0, clip=1.0)
    assert all(torch.equal(one, other) for one, other in zip(before, network.parameters(), strict=True))
    assert all(p.grad is None for p in network.parameters())
    with torch.no_grad():
        next(network.parameters())[:] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        policy_step(network, optimizer, samples, objective("dapo"), learning_rate=1.0, clip=1.0)


def test_the_gradient_is_clipped_and_the_step_is_as_long_as_asked() -> None:
    network = llama()
    samples = samples_of(rollouts(network), reference=False)
    _, grads = stepped(network, samples, objective("dapo"))
    norm = float(torch.stack([g.norm() for g in grads]).norm())
    report, clipped = stepped(network, samples, objective("dapo"), clip=norm / 4)
    assert report.grad_norm == pytest.approx(norm, rel=1e-5)
    close(clipped, [g / 4 for g in grads])
    before = [p.detach().clone() for p in network.parameters()]
    optimizer = torch.optim.SGD(network.parameters(), lr=99.0)
    policy_step(network, optimizer, samples, objective("dapo"), learning_rate=0.01, clip=0.0)
    close([b - p.detach() for b, p in zip(before, network.parameters(), strict=True)], [0.01 * g for g in grads], 1e-3)


def test_progress_is_told_and_dropout_is_off_only_meanwhile() -> None:
    network = llama()
    prepare(network, AdapterSettings(rank=2, alpha=4, dropout=0.5), seed=0)
    network.train()
    samples = samples_of(rollouts(network), old=False, reference=False)
    seen: list[tuple[int, int]] = []
    first, second = (
        stepped(network, samples, objective("dapo"), tokens_per_micro_batch=15, on_chunk=lambda *at: seen.append(at))[0]
        for _ in range(2)
    )
    assert network.training
    assert (first.grad_norm, first.loss) == (second.grad_norm, second.loss)
    num = len(seen) // 2
    assert num > 2
    assert seen[:num] == [(n + 1, num) for n in range(num)]


def test_a_wrapped_model_reads_whole_documents_and_gives_the_same() -> None:
    network = llama()
    wrapped = Fallback(reference(network))
    found = rollouts(network, temperature=0.7, supports=True)
    for own, theirs in zip(rollout_logprobs(wrapped, found), rollout_logprobs(network, found), strict=True):
        assert own == pytest.approx(theirs, abs=1e-4)


def test_a_sample_with_a_wrong_length_is_refused() -> None:
    sample = samples_of(rollouts(llama()))[0]
    with pytest.raises(DataError, match="rollout '0-0'"):
        replace(sample, advantages=sample.advantages[1:])


def test_two_ranks_with_uneven_samples_are_one_batch(tmp_path) -> None:
    """One rank with one group in several micro-batches, one with two groups: their mean gradient is that of all."""
    script = """
import json, sys, torch, torch.distributed as dist
sys.path[:0] = [sys.argv[3] + "/tests/train", sys.argv[3]]
from test_train_policy_step import BIG, llama, objective, rollouts, samples_of, stepped
rank, network, found = int(sys.argv[1]), llama(), []
samples = samples_of(rollouts(network), reference=False)
losses = [objective("dapo"), objective("gspo")]
alone = [stepped(network, samples, loss) for loss in losses]
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
own = [s for s in samples if (s.rollout.group == 0) == (rank == 0)]
for loss, (whole, grads) in zip(losses, alone):
    report, parts = stepped(network, own, loss, tokens_per_micro_batch=(15, BIG)[rank])
    for part in parts:
        dist.all_reduce(part)
    gaps = [(part / 2 - grad).abs().max() / grad.abs().max().clamp(min=1e-3) for part, grad in zip(parts, grads)]
    found.append([float(max(gaps)), report.loss - whole.loss])
if rank == 0:
    print(json.dumps(found))
dist.destroy_process_group()
"""
    root = str(Path(__file__).parents[2])
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(rank), str(tmp_path / "store"), root],
            stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": f"{root}/src:{root}"},
        )
        for rank in range(2)
    ]  # fmt: skip
    out = [rank.communicate(timeout=300)[0] for rank in ranks]
    for gap, off in json.loads(out[0].strip().splitlines()[-1]):
        assert gap < 1e-5
        assert abs(off) < 1e-6
