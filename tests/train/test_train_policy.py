"""Policy losses against five-line references and TRL's, layouts, micro-batches, ranks, KL. Spec items 313 and 315."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import json
import math
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rung.base.errors import DataError, SettingsError
from rung.base.lookup import known, lookup, part
from rung.train.normalise import global_weight, loss_divisor
from rung.train.policy import PolicyBatch, merge_figures, policy_batch
from rung.train.token_loss import PolicyObjective, kl_term

FOLDER = "train.objectives"
NAMES = [name for name in known(FOLDER) if issubclass(lookup(FOLDER, name), PolicyObjective)]
MAX_TOKENS = 16


@dataclass(frozen=True)
class Toy:
    """Padded samples [B, T] of which the second has a hole (a tool's output), and one advantage per row."""

    logprobs: Tensor
    old: Tensor
    reference: Tensor
    mask: Tensor
    advantages: Tensor

    def batch(self, rows: list[int] | None = None, **changes: Any) -> PolicyBatch:
        """These rows as the loss takes them."""
        chosen = torch.arange(len(self.mask)) if rows is None else torch.tensor(rows)
        found = policy_batch(
            self.logprobs[chosen], self.mask[chosen], old_logprobs=self.old[chosen],
            advantages=self.advantages[chosen, None].expand(-1, self.mask.shape[1]),
            reference_logprobs=self.reference[chosen],
        )  # fmt: skip
        return replace(found, **changes)


def toy(distance: float = 0.4, seed: int = 0) -> Toy:
    torch.manual_seed(seed)
    old = -2 * torch.rand(5, 9, dtype=torch.float64) - 0.1
    logprobs = (old + distance * torch.randn(5, 9, dtype=torch.float64)).requires_grad_()
    mask = torch.arange(9)[None] < torch.tensor([9, 7, 1, 4, 6])[:, None]
    mask[1, 2:4] = False
    advantages = torch.tensor([1.5, -0.7, -2.0, 0.0, 0.4], dtype=torch.float64)
    return Toy(logprobs, old, old + 0.3 * torch.randn(5, 9, dtype=torch.float64), mask, advantages)


def objective(name: str, **settings: Any) -> Any:
    extra = {"max_tokens": MAX_TOKENS} if name == "dr_grpo" else {}
    kind, own = part(FOLDER, {"kind": name, **extra, **settings})
    return kind(own)


def mean_loss(loss: Any, batches: list[PolicyBatch]) -> Tensor:
    """As a trainer divides: by the global weight, known from the lengths alone."""
    weight = global_weight(loss.weight(torch.tensor(batch.lengths)) for batch in batches)
    return torch.stack([loss.policy_loss(batch).total for batch in batches]).sum() / loss_divisor(weight)


def clipped(low: float, high: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda r, a: -torch.min(r * a, r.clamp(1 - low, 1 + high) * a)


def by_sequence(losses: Tensor, mask: Tensor) -> Tensor:
    return ((losses * mask).sum(1) / mask.sum(1)).mean()


def sequence_ratio(t: Toy) -> Tensor:
    return (((t.logprobs - t.old) * t.mask).sum(1) / t.mask.sum(1)).exp()[:, None]


def gmpo_reference(t: Toy) -> Tensor:
    sign, log = t.advantages.sign()[:, None], t.logprobs - t.old
    held = sign * torch.min(sign * log, (sign * log).clamp(-0.4, 0.4))
    held = torch.where(sign == 0, log, held)
    return -(((held * t.mask).sum(1) / t.mask.sum(1)).exp() * t.advantages).mean()


def sapo_gate(r: Tensor, a: Tensor) -> Tensor:
    tau = torch.where(a > 0, 1.0, 1.05 * torch.ones_like(a))
    return -torch.sigmoid(tau * (r - 1)) * 4 / tau * a


REFERENCES: dict[str, Callable[[Toy, Tensor, Tensor], Tensor]] = {
    "grpo": lambda t, r, a: by_sequence(clipped(0.2, 0.2)(r, a), t.mask),
    "dr_grpo": lambda t, r, a: (clipped(0.2, 0.2)(r, a) * t.mask).sum() / (len(t.mask) * MAX_TOKENS),
    "dapo": lambda t, r, a: (clipped(0.2, 0.28)(r, a) * t.mask).sum() / t.mask.sum(),
    "gspo": lambda t, r, a: clipped(3e-4, 4e-4)(sequence_ratio(t), a).mean(),
    "gmpo": lambda t, r, a: gmpo_reference(t),
    "cispo": lambda t, r, a: -(r.detach().clamp(max=5.0) * a * t.logprobs * t.mask).sum() / t.mask.sum(),
    "sapo": lambda t, r, a: by_sequence(sapo_gate(r, a), t.mask),
}


def test_every_policy_objective_has_a_reference() -> None:
    assert set(REFERENCES) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("distance", [0.0, 1e-4, 0.4, 2.0])
def test_value_and_gradient_equal_the_reference(name: str, distance: float) -> None:
    t = toy(distance)
    expected = REFERENCES[name](t, (t.logprobs - t.old).exp(), t.advantages[:, None])
    found = mean_loss(objective(name, kl_coefficient=0.0), [t.batch()])
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    gradients = [torch.autograd.grad(loss, t.logprobs, retain_graph=True)[0] for loss in (found, expected)]
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-9, rtol=1e-9)
    assert gradients[0].abs().sum() > 0 or name == "gspo", "something is learned from"


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_the_values(name: str) -> None:
    """Finite differences; CISPO's weight is a constant by design, so its old policy moves along."""
    t = toy(0.1)
    loss = objective(name, kl_coefficient=0.05)
    ratio = (t.logprobs - t.old).detach()

    def value(logprobs: Tensor) -> Tensor:
        old = logprobs.detach() - ratio if name == "cispo" else t.old
        return mean_loss(loss, [replace(t, logprobs=logprobs, old=old).batch()])

    if name == "cispo":  # its KL is weighed by the ratio, which has a gradient
        loss = objective(name)
    assert torch.autograd.gradcheck(value, (t.logprobs,))


@pytest.mark.parametrize("name", [n for n in NAMES if n != "gspo"])
def test_kl_is_added_in_the_objectives_own_average(name: str) -> None:
    t = toy()
    d = t.reference - t.logprobs
    ratio = (t.logprobs - t.old).exp()
    terms = ratio * (d.exp() - d - 1) * t.mask
    expected = {
        "sequence": (terms.sum(1) / t.mask.sum(1)).mean(),
        "token": terms.sum() / t.mask.sum(),
        "constant": terms.sum() / (5 * MAX_TOKENS),
    }[objective(name).loss.aggregation]
    with_kl, without = (mean_loss(objective(name, kl_coefficient=c), [t.batch()]) for c in (0.3, 0.0))
    torch.testing.assert_close(with_kl - without, 0.3 * expected)


@pytest.mark.parametrize("name", NAMES)
def test_layout_order_and_padding_do_not_matter(name: str) -> None:
    """Padded, padded further with nonsense, shuffled, and packed into one row with prompts between: one loss."""
    t = toy()
    loss = objective(name, kl_coefficient=0.1)
    plain = loss.policy_loss(t.batch())
    nonsense = torch.full((5, 4), math.nan, dtype=torch.float64)
    wide = Toy(
        *(torch.cat([x, nonsense], 1) for x in (t.logprobs, t.old, t.reference)),
        torch.cat([t.mask, torch.zeros(5, 4, dtype=torch.bool)], 1), t.advantages,
    )  # fmt: skip
    others = [loss.policy_loss(wide.batch()), loss.policy_loss(t.batch([3, 0, 4, 2, 1])), loss.policy_loss(packed(t))]
    gradients = [torch.autograd.grad(x.total, t.logprobs, retain_graph=True)[0] for x in (plain, *others)]
    for other, gradient in zip(others, gradients[1:], strict=True):
        torch.testing.assert_close(other.total, plain.total)
        torch.testing.assert_close(gradient, gradients[0])
        assert other.figures.num_tokens == plain.figures.num_tokens == 25
        assert other.figures.drift_sum == pytest.approx(plain.figures.drift_sum)
    assert (gradients[0][~t.mask] == 0).all(), "prompts, tools and padding do not count"


def packed(t: Toy) -> PolicyBatch:
    """All rows one after another, in turns of a token each: tokens of a sequence need not even be neighbours."""
    turned = [x.T.reshape(-1) for x in (t.logprobs, t.old, t.reference)]
    sequences = torch.arange(5).repeat(9)
    return policy_batch(
        turned[0], t.mask.T.reshape(-1), old_logprobs=turned[1], advantages=t.advantages[sequences],
        sequences=sequences, reference_logprobs=turned[2],
    )  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("split", [[[0, 1, 2, 3, 4]], [[2], [0, 3], [1, 4]], [[4], [3], [2], [1], [0]]])
def test_micro_batches_are_one_batch(name: str, split: list[list[int]]) -> None:
    t = toy()
    loss = objective(name, kl_coefficient=0.1)
    whole = torch.autograd.grad(mean_loss(loss, [t.batch()]), t.logprobs)[0]
    batches = [t.batch(rows) for rows in split]
    torch.testing.assert_close(torch.autograd.grad(mean_loss(loss, batches), t.logprobs)[0], whole)
    figures = merge_figures([loss.policy_loss(batch).figures for batch in batches])
    one = loss.policy_loss(t.batch()).figures
    assert (figures.num_tokens, figures.num_sequences) == (25, 5)
    for figure in ("ratio", "ratio_max", "drift", "kl", "clipped_low", "clipped_high"):
        assert getattr(figures, figure) == pytest.approx(getattr(one, figure)), figure


def test_ranks_with_uneven_sequences_are_one_batch(tmp_path) -> None:
    """Two processes, one with two micro-batches: their averaged gradients are those of one batch on one process."""
    script = """
import json, sys, torch, torch.distributed as dist
sys.path.insert(0, sys.argv[3])
from tests.train.test_train_policy import NAMES, mean_loss, objective, toy
rank, found = int(sys.argv[1]), {}
whole = {}
for name in NAMES:
    t = toy()
    mean_loss(objective(name, kl_coefficient=0.1), [t.batch()]).backward()
    whole[name] = t.logprobs.grad
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
for name in NAMES:
    t = toy()
    mean_loss(objective(name, kl_coefficient=0.1), [t.batch(r) for r in [[[0, 3], [4]], [[1, 2]]][rank]]).backward()
    dist.all_reduce(t.logprobs.grad)
    found[name] = float((t.logprobs.grad / 2 - whole[name]).abs().max())
if rank == 0:
    print(json.dumps(found))
dist.destroy_process_group()
"""
    root = str(__file__).rsplit("/tests/", 1)[0]
    command = [sys.executable, "-c", script]
    paths = {"PYTHONPATH": f"{root}/src:{root}"}
    ranks = [
        subprocess.Popen(
            [*command, str(r), str(tmp_path / "store"), root], stdout=subprocess.PIPE, text=True, env=paths
        )
        for r in range(2)
    ]
    out = [rank.communicate(timeout=300)[0] for rank in ranks]
    found = json.loads(out[0].strip().splitlines()[-1])
    assert set(found) == set(NAMES)
    assert max(found.values()) < 1e-12


def trl_trainer(t: Toy, **settings: Any) -> SimpleNamespace:
    """What TRL's loss reads of its trainer, with our log-probabilities in place of a model's."""
    nothing = torch.zeros_like(t.old)
    arguments = {"delta": None, "use_bias_correction_kl": False, "steps_per_generation": 1,
                 "sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05}  # fmt: skip
    chosen = {key: settings.pop(key) for key in [*settings] if key in arguments}
    accelerator = SimpleNamespace(gather=lambda x: x, reduce=lambda x, reduction: x, num_processes=1)
    fields = {
        "_get_per_token_logps_and_entropies": lambda *a, **k: (t.logprobs, nothing, None), "aux_loss_enabled": False,
        "top_entropy_quantile": 1.0, "off_policy_mask_threshold": None, "importance_sampling_level": "token",
        "beta": 0.0, "epsilon_low": 0.2, "epsilon_high": 0.2, "use_vllm": False, "max_completion_length": MAX_TOKENS,
        "vllm_importance_sampling_correction": True, "model": SimpleNamespace(training=True), "loss_type": "grpo",
        "current_gradient_accumulation_steps": 1, "accelerator": accelerator, "_entropy_bonus_enabled": False,
        "_metrics": {"train": defaultdict(list)}, "args": SimpleNamespace(**{**arguments, **chosen}),
    }  # fmt: skip
    return SimpleNamespace(**{**fields, **settings})


def trl_loss(t: Toy, weights: Tensor | None, **settings: Any) -> tuple[Tensor, dict[str, list[float]]]:
    trainer = trl_trainer(t, use_vllm=weights is not None, **settings)
    nothing = torch.zeros(5, 1, dtype=torch.int64)
    inputs = {
        "prompt_ids": nothing, "prompt_mask": nothing, "completion_ids": torch.zeros(5, 9, dtype=torch.int64),
        "completion_mask": t.mask.to(t.old.dtype), "advantages": t.advantages, "old_per_token_logps": t.old,
        "ref_per_token_logps": t.reference, "num_items_in_batch": t.mask.sum(), "importance_sampling_ratio": weights,
    }  # fmt: skip
    compute = importlib.import_module("trl.trainer.grpo_trainer").GRPOTrainer._compute_loss
    return compute(trainer, None, inputs), trainer._metrics["train"]


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl is not installed")
@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("grpo", {"clip_high": 0.3}, {"loss_type": "grpo", "epsilon_high": 0.3}),
        ("grpo", {"kl_weighted": True}, {"loss_type": "grpo", "use_bias_correction_kl": True}),
        ("dr_grpo", {}, {"loss_type": "dr_grpo"}),
        ("dapo", {}, {"loss_type": "dapo", "epsilon_high": 0.28}),
        ("dapo", {"ratio_cap": 1.5}, {"loss_type": "dapo", "epsilon_high": 0.28, "delta": 1.5}),
        ("gspo", {"clip_low": 0.03, "clip_high": 0.04},
         {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon_low": 0.03, "epsilon_high": 0.04}),
        ("cispo", {"weight_cap": 1.3}, {"loss_type": "cispo", "epsilon_high": 1.3}),
        ("sapo", {}, {"loss_type": "sapo"}),
    ],
)  # fmt: skip
def test_losses_equal_trls(name: str, ours: dict[str, Any], theirs: dict[str, Any], beta: float, weighed: bool) -> None:
    """Value, gradient, KL and clip shares of TRL's own function."""
    t = toy()
    # A sequence's ratio goes with a weight per sequence. TRL gives a token the mean of its sequence's weights, we its
    # own: with weights per token the values agree and the gradients do not.
    per_row = torch.rand(5, 1 if name == "gspo" else 9, dtype=torch.float64).expand(5, 9)
    weights = per_row if weighed else None
    expected, metrics = trl_loss(t, weights, beta=beta, **theirs)
    loss = objective(name, **{"kl_coefficient": beta, "kl_weighted": False, **ours})
    batch = t.batch(weights=None if weights is None else weights[t.mask])
    found = mean_loss(loss, [batch])
    # TRL holds SAPO's temperatures in float32, everything else here is float64.
    close = {"atol": 1e-6 if name == "sapo" else 1e-9, "rtol": 1e-7}
    torch.testing.assert_close(found, expected, **close)
    gradients = [torch.autograd.grad(x, t.logprobs)[0] for x in (found, expected)]
    torch.testing.assert_close(gradients[0], gradients[1], **close)
    figures = loss.policy_loss(batch).figures
    if beta and not ours.get("kl_weighted"):
        assert figures.kl == pytest.approx(metrics["kl"][0])
    if name in ("grpo", "dr_grpo", "dapo"):
        assert figures.clipped_low == pytest.approx(metrics["clip_ratio/low_mean"][0])
        assert figures.clipped_high == pytest.approx(metrics["clip_ratio/high_mean"][0])
        assert min(figures.clipped_low, figures.clipped_high) > 0


@pytest.mark.parametrize("name", NAMES)
def test_at_the_start_ratios_are_one_and_kl_is_zero(name: str) -> None:
    t = toy(0.0)
    t = replace(t, reference=t.old)
    loss = objective(name, kl_coefficient=0.1)
    found = loss.policy_loss(t.batch())
    assert found.figures.ratio == found.figures.ratio_max == 1.0
    assert found.figures.kl == found.figures.drift == 0.0
    assert (found.figures.num_clipped_low, found.figures.num_clipped_high, found.figures.num_capped) == (0, 0, 0)
    # Every gate has slope 1 at a ratio of 1, so all objectives begin with the policy gradient, each in its average.
    gradient = torch.autograd.grad(mean_loss(loss, [t.batch()]), t.logprobs)[0]
    share = {"token": 1 / t.mask.sum(), "sequence": 1 / (5 * t.mask.sum(1)[:, None]), "constant": 1 / (5 * MAX_TOKENS)}
    torch.testing.assert_close(gradient, -t.advantages[:, None] * t.mask * share[loss.loss.aggregation])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distance", [1e-6, 1e-4, 1e-2, 1.0, 30.0])
def test_kl_is_never_negative(dtype: torch.dtype, distance: float) -> None:
    torch.manual_seed(1)
    logprobs = -5 * torch.rand(4000).to(dtype)
    reference = logprobs + distance * torch.randn(4000).to(dtype)
    for estimator in ("k2", "k3"):
        terms = kl_term(logprobs, reference, estimator)
        assert torch.isfinite(terms).all()
        assert terms.min() >= 0
        assert terms.sum() > 0


def expected_gradient(estimator: str, sampled_off_policy: bool, weighted: bool) -> tuple[Tensor, Tensor, Tensor]:
    """By enumeration over a small vocabulary: (found, of KL(policy || reference), of KL(reference || policy))."""
    torch.manual_seed(2)
    logits = torch.randn(7, dtype=torch.float64, requires_grad=True)
    policy, reference = torch.log_softmax(logits, 0), torch.log_softmax(torch.randn(7, dtype=torch.float64), 0)
    other = torch.log_softmax(logits.detach() + 0.6 * torch.randn(7), 0)
    sampler = other if sampled_off_policy else policy.detach()
    terms = policy - reference if estimator == "k1" else kl_term(
        policy, reference, estimator, (policy - sampler).exp() if weighted else None
    )  # fmt: skip
    losses = ((sampler.exp() * terms).sum(), (policy.exp() * (policy - reference)).sum(),
              (reference.exp() * (reference - policy)).sum())  # fmt: skip
    gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in losses]
    torch.testing.assert_close(gradients[2], policy.exp().detach() - reference.exp())
    return gradients[0], gradients[1], gradients[2]


def test_k1_has_no_gradient_which_is_why_it_is_refused() -> None:
    found, wanted, _ = expected_gradient("k1", sampled_off_policy=False, weighted=False)
    torch.testing.assert_close(found, torch.zeros_like(found))
    assert wanted.abs().max() > 0.01
    with pytest.raises(SettingsError, match="k1 inside the loss does nothing"):
        objective("grpo", kl_estimator="k1")
    with pytest.raises(SettingsError, match="k1 inside the loss does nothing"):
        kl_term(torch.zeros(1), torch.zeros(1), "k1")


@pytest.mark.parametrize("estimator", ["k2", "k3"])
@pytest.mark.parametrize("off_policy", [False, True])
def test_weighted_estimators_have_the_gradient_of_the_kl(estimator: str, off_policy: bool) -> None:
    found, wanted, _ = expected_gradient(estimator, off_policy, weighted=True)
    torch.testing.assert_close(found, wanted)


def test_unweighted_estimators_do_only_where_the_literature_says() -> None:
    found, wanted, _ = expected_gradient("k2", sampled_off_policy=False, weighted=False)
    torch.testing.assert_close(found, wanted)
    found, wanted, other_way = expected_gradient("k3", sampled_off_policy=False, weighted=False)
    torch.testing.assert_close(found, other_way)
    assert not torch.allclose(found, wanted, atol=1e-2)
    found, wanted, _ = expected_gradient("k2", sampled_off_policy=True, weighted=False)
    assert not torch.allclose(found, wanted, atol=1e-2)


@pytest.mark.parametrize(("estimator", "weighted"), itertools.product(["k2", "k3"], [True, False]))
def test_the_settings_of_the_kl_act(estimator: str, weighted: bool) -> None:
    t = toy()
    t = replace(t, advantages=torch.zeros_like(t.advantages))
    loss = objective("dapo", kl_coefficient=0.5, kl_estimator=estimator, kl_weighted=weighted)
    ratio = (t.logprobs - t.old).exp() if weighted else None
    expected = 0.5 * kl_term(t.logprobs, t.reference, estimator, ratio)[t.mask].sum()
    gradients = [torch.autograd.grad(x, t.logprobs)[0] for x in (loss.policy_loss(t.batch()).total, expected)]
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_kl_mask_keeps_the_policy_term() -> None:
    t = toy()
    batch = t.batch(kl_mask=torch.zeros(25, dtype=torch.float64))
    with_mask = objective("grpo", kl_coefficient=0.5).policy_loss(batch).total
    torch.testing.assert_close(with_mask, objective("grpo", kl_coefficient=0.0).policy_loss(t.batch()).total)


def test_kl_needs_a_reference_and_nothing_else_does() -> None:
    assert objective("grpo").uses_reference
    assert not objective("dapo").uses_reference
    batch = toy().batch(reference_logprobs=None)
    assert objective("dapo").policy_loss(batch).figures.kl is None
    with pytest.raises(DataError, match="reference"):
        objective("grpo").policy_loss(batch)


@pytest.mark.parametrize("advantage", [-1.0, 1.0])
@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0, 2.9, 3.1, 50.0])
def test_dual_clip_and_two_sided_clip_are_one_function(advantage: float, ratio: float) -> None:
    """verl's formula for the first, INTELLECT-2's for the second."""
    logprobs = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    old, advantages = torch.zeros(1, dtype=torch.float64), torch.tensor([advantage], dtype=torch.float64)
    found = objective("dapo", ratio_cap=3.0).policy_loss(PolicyBatch(logprobs, old, advantages, (1,)))
    surrogates = ratio * advantage, min(max(ratio, 0.8), 1.28) * advantage
    verl = -min(surrogates)
    verl = min(-3.0 * advantage, verl) if advantage < 0 else verl
    intellect = -min(min(ratio, 3.0) * advantage, surrogates[1])
    assert found.total.item() == pytest.approx(verl) == pytest.approx(intellect)
    assert found.figures.num_capped == (advantage < 0 and ratio > 3)
    gradient = torch.autograd.grad(found.total, logprobs)[0].item()
    assert (gradient == 0) == ((advantage < 0 and (ratio > 3 or ratio < 0.8)) or (advantage > 0 and ratio > 1.28))
    with pytest.raises(SettingsError, match="ratio_cap"):
        objective("dapo", ratio_cap=1.2)


@pytest.mark.parametrize("name", NAMES)
def test_absurd_ratios_stay_finite(name: str) -> None:
    far = torch.tensor([-1000.0, 0.0, -500.0, -3.0], requires_grad=True)
    old, advantages = torch.tensor([0.0, -1000.0, 0.0, -3.0]), torch.tensor([1.0, -1.0, -1.0, 1.0])
    found = objective(name, kl_coefficient=0.1).policy_loss(PolicyBatch(far, old, advantages, (2, 2), old))
    found.total.backward()
    assert torch.isfinite(found.total)
    assert torch.isfinite(far.grad).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_micro_batch_without_trained_tokens_is_zero_and_weighs_nothing(name: str) -> None:
    t = toy()
    loss = objective(name, kl_coefficient=0.1)
    found = loss.policy_loss(replace(t, mask=torch.zeros_like(t.mask)).batch())
    found.total.backward()
    assert found.total.item() == 0.0
    assert loss.weight(torch.tensor([0, 0])) == 0
    assert found.figures.ratio == 0.0


def test_a_sequence_longer_than_the_constant_is_refused() -> None:
    with pytest.raises(SettingsError, match="9 trained tokens"):
        objective("dr_grpo", max_tokens=8).policy_loss(toy().batch())


def test_broken_inputs_are_named() -> None:
    t = toy()
    rows = {"old_logprobs": t.old, "advantages": t.advantages[:, None].expand(-1, 9)}
    for name, place in (("old_logprobs", "position 4"), ("advantages", "position 4")):
        broken = rows[name].clone()
        broken[0, 4] = math.nan
        with pytest.raises(DataError, match=f"{name}, {place}"):
            policy_batch(t.logprobs, t.mask, **{**rows, name: broken})
    with pytest.raises(DataError, match="mask"):
        policy_batch(t.logprobs, t.mask[:4], **rows)
    with pytest.raises(DataError, match="sequence of each"):
        policy_batch(t.logprobs[0], t.mask[0], old_logprobs=t.old[0], advantages=t.old[0])


def test_low_precision_logprobs_are_widened_before_anything_is_subtracted() -> None:
    t = toy()
    half = policy_batch(
        t.logprobs.bfloat16(), t.mask, old_logprobs=t.old.bfloat16(), advantages=t.old, entropies=t.old.abs()
    )
    assert half.logprobs.dtype == half.old_logprobs.dtype == torch.float32
    figures = objective("dapo").policy_loss(half).figures
    assert figures.entropy == pytest.approx(float(t.old[t.mask].abs().mean()))
