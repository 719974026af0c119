"""Preference training: objectives by hand and against TRL, the frozen reference, learning, resume. Items 135-137."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tokenizers
import torch
from torch.nn import functional

from rung.base.errors import BudgetSpent, DataError, ModelError, SettingsError
from rung.base.events import Events
from rung.base.lookup import known, lookup, part
from rung.models.families.llama import Llama
from rung.models.layers.attend import CausalAttend
from rung.records.chat.frame import Rendered
from rung.records.packing import Example
from rung.records.tokenizer import Tokenizer
from rung.train import loop, output_loss, preferences
from rung.train.adapters import attach_adapter, base_hash, prepare, save_adapter, stack_adapter, trainable
from rung.train.loop import train
from rung.train.output_loss import target_logprobs
from rung.train.pairs import PairExample, PairLogprobs, hold_out_pairs, pack_pairs, sums_of
from rung.train.preferences import PreferenceResult, pair_accuracy, train_pairs
from rung.train.settings import AdapterSettings, PreferenceSettings, SftSettings, StackSettings
from rung.train.step import accumulate, evaluate, pair_logprobs

END = 2
TOKENIZER = Tokenizer(tokenizers.Tokenizer(tokenizers.models.WordLevel({"<end>": END}, "<end>")), end_ids=(END,))
PAIR_OBJECTIVES = [
    name for name in known("train.objectives") if hasattr(lookup("train.objectives", name), "pair_losses")
]
SILENT = Events()

CHOSEN, REJECTED = [-4.0, -9.5, -2.25, -30.0], [-5.0, -8.0, -2.25, -41.0]
REFERENCE_CHOSEN, REFERENCE_REJECTED = [-4.5, -9.0, -3.0, -33.0], [-4.75, -8.5, -3.0, -40.0]
H = [0.75, -1.0, 0.0, 4.0]
"""(chosen - reference) - (rejected - reference) of each pair, worked out by hand."""


def toy(dtype: torch.dtype = torch.float64) -> PairLogprobs:
    values = [torch.tensor(x, dtype=dtype) for x in (CHOSEN, REJECTED, REFERENCE_CHOSEN, REFERENCE_REJECTED)]
    return PairLogprobs(*values, torch.tensor([2, 5, 1, 8]), torch.tensor([2, 4, 1, 16]))


def objective(name: str, **settings: Any) -> Any:
    kind, own = part("train.objectives", {"kind": name, **settings})
    return kind(own)


def losses(name: str, **settings: Any) -> list[float]:
    return objective(name, **settings).pair_losses(toy()).losses.tolist()


@pytest.mark.parametrize(
    ("beta", "expected"),
    [(0.1, [0.6563501, 0.7443967, 0.6931472, 0.5130153]), (0.5, [0.5231233, 0.9740770, 0.6931472, 0.1269280])],
)
def test_the_dpo_loss_of_four_pairs_is_that_worked_out_by_hand(beta: float, expected: list[float]) -> None:
    found = losses("dpo", beta=beta)
    assert found == pytest.approx(expected, abs=1e-6)
    assert found == pytest.approx([math.log1p(math.exp(-beta * h)) for h in H], abs=1e-12)


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_the_variants_are_what_their_papers_write(beta: float) -> None:
    won, lost = ([math.log1p(math.exp(-sign * beta * h)) for h in H] for sign in (1, -1))
    mixed = [0.8 * w + 0.2 * x for w, x in zip(won, lost, strict=True)]
    assert losses("cdpo", beta=beta, label_smoothing=0.2) == pytest.approx(mixed, abs=1e-9)
    unbiased = [(0.8 * w - 0.2 * x) / 0.6 for w, x in zip(won, lost, strict=True)]
    assert losses("robust_dpo", beta=beta, flip_rate=0.2) == pytest.approx(unbiased, abs=1e-9)
    per_token = [0.5 / 2 + 0.25 / 2, -0.5 / 5 - 0.5 / 4, 0.75 - 0.75, 3 / 8 + 1 / 16]
    assert losses("ipo", beta=beta) == pytest.approx([(m - 0.5 / beta) ** 2 for m in per_token], abs=1e-9)
    assert losses("ipo", beta=beta, per_token=False) == pytest.approx([(h - 0.5 / beta) ** 2 for h in H], abs=1e-9)
    mean_margins = [-4 / 2 + 5 / 2, -9.5 / 5 + 8 / 4, 0.0, -30 / 8 + 41 / 16]
    expected = [math.log1p(math.exp(-(beta * m - 0.3))) for m in mean_margins]
    assert losses("simpo", beta=beta, gamma=0.3) == pytest.approx(expected, abs=1e-9)


def test_anchors_of_the_variants() -> None:
    """At the reference all are log 2; cDPO's minimum is at log((1-e)/e); robust DPO's slope goes to -e/(1-2e)."""
    zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    still, one = torch.zeros(1, dtype=torch.float64), torch.ones(1)
    for name in ("dpo", "cdpo", "robust_dpo"):
        found = objective(name).pair_losses(PairLogprobs(zero, still, still, still, one, one))
        assert found.losses.item() == pytest.approx(math.log(2), abs=1e-9)
    for name, at, slope in (("cdpo", math.log(9.0), 0.0), ("robust_dpo", 60.0, -0.125)):
        chosen = torch.tensor([at], dtype=torch.float64, requires_grad=True)
        pairs = PairLogprobs(chosen, still, still, still, one, one)
        objective(name, beta=1.0).pair_losses(pairs).losses.sum().backward()
        assert float(chosen.grad) == pytest.approx(slope, abs=1e-9)


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl is not installed")
@pytest.mark.parametrize("beta", [0.1, 0.5])
@pytest.mark.parametrize(
    ("name", "theirs", "settings"),
    [
        ("dpo", "sigmoid", {}),
        ("ipo", "ipo", {}),
        ("robust_dpo", "robust", {"flip_rate": 0.15}),
        ("cdpo", "aot", {"label_smoothing": 0.15}),  # with one pair there is nothing to sort, and aot is cDPO
    ],
)
def test_losses_equal_trls(name: str, theirs: str, settings: dict[str, float], beta: float) -> None:
    """TRL's own function over a network whose token log-probabilities sum to the toy's, one pair at a time."""
    trainer_module = importlib.import_module("trl.trainer.dpo_trainer")
    pairs, counts = toy(torch.float32), toy().chosen_counts.tolist() + toy().rejected_counts.tolist()
    mask = torch.tensor([[0] + [1] * n + [0] * (16 - n) for n in counts])
    logprobs = mask[:, 1:] * (torch.cat([pairs.chosen, pairs.rejected]) / torch.tensor(counts))[:, None]
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x)
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=accelerator, aux_loss_enabled=False, ld_alpha=None,
        precompute_ref_logps=True, f_divergence_type="reverse_kl", loss_types=[theirs], loss_weights=[1.0], beta=beta,
        label_smoothing=sum(settings.values()), use_weighting=False, _total_train_tokens=0, _tp_size=1,
        _metrics={"train": defaultdict(list)},
    )  # fmt: skip
    found = []
    for index in range(4):
        both, nothing = torch.tensor([index, index + 4]), torch.zeros(2, 16)
        outputs = SimpleNamespace(log_probs=logprobs[both], entropy=nothing, mean_logits=nothing, is_top1=nothing > 0)
        inputs = {
            "input_ids": mask[both], "attention_mask": mask[both], "completion_mask": mask[both],
            "ref_chosen_logps": pairs.reference_chosen[index : index + 1],
            "ref_rejected_logps": pairs.reference_rejected[index : index + 1],
        }  # fmt: skip
        compute = trainer_module.DPOTrainer._compute_loss
        found.append(float(compute(trainer, lambda _outputs=outputs, **_: _outputs, inputs, False)))
    ours = objective(name, beta=beta, **settings).pair_losses(pairs).losses.tolist()
    assert ours == pytest.approx(found, abs=1e-6)


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl is not installed")
@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_simpo_equals_trls(beta: float) -> None:
    cpo = importlib.import_module("trl.experimental.cpo.cpo_trainer").CPOTrainer
    trainer = SimpleNamespace(
        alpha=0.0, beta=beta, simpo_gamma=0.7, label_smoothing=0.0, loss_type="simpo",
        accelerator=SimpleNamespace(device=torch.device("cpu")),
    )  # fmt: skip
    pairs = toy()
    means = pairs.chosen / pairs.chosen_counts, pairs.rejected / pairs.rejected_counts
    found = cpo.cpo_loss(trainer, *means)[0].tolist()
    assert losses("simpo", beta=beta, gamma=0.7) == pytest.approx(found, abs=1e-6)


@pytest.mark.parametrize("name", PAIR_OBJECTIVES)
def test_a_pairs_loss_depends_on_no_other_pair_and_on_no_order(name: str) -> None:
    whole, order = toy(), torch.tensor([2, 0, 3, 1])
    columns = {field: getattr(whole, field) for field in PairLogprobs.__dataclass_fields__}
    loss = objective(name)
    everything = loss.pair_losses(whole)
    shuffled = loss.pair_losses(PairLogprobs(**{k: v[order] for k, v in columns.items()}))
    alone = [loss.pair_losses(PairLogprobs(**{k: v[i : i + 1] for k, v in columns.items()})) for i in range(4)]
    torch.testing.assert_close(shuffled.losses, everything.losses[order])
    torch.testing.assert_close(torch.cat([one.losses for one in alone]), everything.losses)
    won = everything.chosen_rewards > everything.rejected_rewards
    pulled = torch.autograd.functional.jacobian(
        lambda chosen: loss.pair_losses(replace(whole, chosen=chosen)).losses.sum(), whole.chosen
    )
    assert won.any()
    assert (pulled[~won] < 0).all(), "a pair that is lost pulls the chosen response up"


def plain_logprobs(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, softcap: float) -> torch.Tensor:
    logits = hidden @ weight.T
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    return functional.log_softmax(logits, -1).gather(1, targets[:, None])[:, 0]


@pytest.mark.parametrize("softcap", [0.0, 3.0])
@pytest.mark.parametrize("trained_weight", [False, True])
def test_log_probabilities_without_logits_equal_torchs(monkeypatch, softcap: float, trained_weight: bool) -> None:
    monkeypatch.setattr(output_loss, "_ROWS_CPU", 16)
    monkeypatch.setattr(output_loss, "_TOKENS", 5)
    torch.manual_seed(1)
    weight, targets, hidden = torch.randn(45, 8), torch.randint(0, 45, (13,)), 3 * torch.randn(13, 8)
    pull, results = torch.randn(13), []
    for function in (plain_logprobs, lambda h, w, t, c: target_logprobs(h, w, t, softcap=c)):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_(trained_weight)
        found = function(h, w, targets, softcap)
        (found.square() * pull).sum().backward()
        results.append((found.detach(), h.grad, w.grad if trained_weight else torch.zeros(1)))
    for ours, theirs in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)


def pairs_of(num: int, seed: int = 0, per_prompt: int = 1) -> list[PairExample]:
    """Synthetic preferences: the shorter of two responses of eight words is better."""
    draw, found = torch.Generator().manual_seed(seed), []
    for i in range(num):
        prompt_draw = torch.Generator().manual_seed(1000 * seed + i // per_prompt)
        prompt = torch.randint(10, 290, (3 + i // per_prompt % 4,), generator=prompt_draw).tolist()

        def response(length: int, name: str, prompt: list[int] = prompt) -> Example:
            answer = [*torch.randint(10, 18, (length,), generator=draw).tolist(), END]
            return Example(
                name, Rendered((*prompt, *answer), (False,) * len(prompt) + (True,) * len(answer), len(prompt))
            )

        lengths = (2 + i % 3, 7 + i % 4)
        found.append(PairExample(f"p{i}", response(lengths[0], f"p{i}:chosen"), response(lengths[1], f"p{i}:rejected")))
    return found


def base(sharpness: float) -> Llama:
    """Random weights; with a larger embedding, which is the head too, a word can become likely at all."""
    network = Llama.build(Llama.SIZES["tiny"], seed=0)
    with torch.no_grad():
        network.model.embed_tokens.weight.mul_(sharpness)
    return network


def tuned(folder: Path, sharpness: float = 1.0) -> Llama:
    """A network with a trained adapter on it, attached as a stage attaches it."""
    network = base(sharpness)
    prepare(network, AdapterSettings(rank=4, dropout=0.1), seed=0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(len(name)))
    folder.mkdir(parents=True, exist_ok=True)
    save_adapter(network, folder)
    fresh = base(sharpness)
    attach_adapter(fresh, folder)
    return fresh


def stacked(folder: Path, sharpness: float = 1.0, **settings: Any) -> Llama:
    network = tuned(folder, sharpness)
    stack_adapter(network, StackSettings(**{"rank": 8, **settings}), seed=1)
    return network


def go(network: Llama, pairs: list[PairExample], scratch: Path, on_step=lambda n: None, **settings) -> PreferenceResult:
    chosen = PreferenceSettings(**{"sequences_per_step": 4, "tokens_per_micro_batch": 40, "patience": 0, **settings})
    return train_pairs(network, TOKENIZER, pairs, chosen, events=SILENT, scratch=scratch, on_step=on_step)


def logits(network: Llama) -> torch.Tensor:
    ids = torch.arange(24).reshape(2, 12)
    return network.hidden(ids, torch.arange(12).expand_as(ids), CausalAttend()) @ network.output_weight.T


def test_a_fresh_upper_adapter_changes_nothing_and_is_all_that_is_trained(tmp_path) -> None:
    before, network = tuned(tmp_path).eval(), stacked(tmp_path)
    torch.testing.assert_close(logits(network), logits(before), atol=1e-6, rtol=1e-5)
    assert trainable(network)
    assert all(".upper." in name for name in trainable(network))
    network.train()
    assert torch.equal(logits(network), logits(network)), "the frozen adapter's dropout is gone"
    with pytest.raises(ModelError, match="two adapters"):
        stack_adapter(network, StackSettings(), seed=1)
    with pytest.raises(ModelError, match="no adapter"):
        stack_adapter(Llama.build(Llama.SIZES["tiny"], seed=0), StackSettings(), seed=1)


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), StackSettings().targets])
def test_both_adapters_are_saved_as_the_one_that_is_their_sum(tmp_path, targets: tuple[str, ...]) -> None:
    network = stacked(tmp_path / "a", targets=targets, alpha=12.0)
    for parameter in trainable(network).values():
        torch.nn.init.normal_(parameter, 0, 0.1)
    (tmp_path / "b").mkdir()
    save_adapter(network, tmp_path / "b")
    alone = Llama.build(Llama.SIZES["tiny"], seed=0)
    attach_adapter(alone, tmp_path / "b")
    torch.testing.assert_close(logits(alone), logits(network), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(logits(alone), logits(tuned(tmp_path / "a")), atol=1e-2)


def test_stacked_the_fused_path_has_pefts_values_and_gradients(tmp_path, monkeypatch) -> None:
    network, results = stacked(tmp_path), []
    for parameter in trainable(network).values():
        torch.nn.init.normal_(parameter, 0, 0.1)
    for fused in (True, False):
        if not fused:
            layer = type(network.model.layers[0].self_attn.q_proj)
            monkeypatch.setattr(layer, "forward", layer.__mro__[1].forward)
        network.zero_grad()
        logits(network).square().mean().backward()
        results.append({name: p.grad.clone() for name, p in trainable(network).items()})
    for name, gradient in results[0].items():
        torch.testing.assert_close(gradient, results[1][name], atol=1e-6, rtol=1e-4)


def test_item_135_the_first_step_sees_margins_of_zero_and_the_reference_never_changes(tmp_path) -> None:
    network, pairs = stacked(tmp_path / "a"), pairs_of(18)
    before = base_hash(network)
    seen: list[float] = []
    kind = type(objective("dpo"))
    original = kind.pair_losses

    def watched(self: Any, given: PairLogprobs) -> Any:
        found = original(self, given)
        seen.extend((found.chosen_rewards - found.rejected_rewards).tolist())
        return found

    kind.pair_losses = watched
    try:
        result = go(network, pairs, tmp_path / "s", learning_rate=1e-2, eval_fraction=0.2)
    finally:
        kind.pair_losses = original
    assert seen[: 4 + 4] == [0.0] * 8, "four pairs held out, then the four of the first step"
    assert any(seen[8:])
    assert result.training.first_loss == pytest.approx(math.log(2), abs=1e-7)
    assert result.training.validation[0] == (0, pytest.approx(math.log(2), abs=1e-7))
    assert base_hash(network) == before
    reference = pair_logprobs(tuned(tmp_path / "a"), pack_pairs(pairs, 10_000))[0]
    stored = preferences.read_json(tmp_path / "s" / "reference.json")["logprobs"]
    row = pack_pairs(pairs, 10_000)[0]
    for name, chosen in zip(row.pair_ids, reference.chosen.tolist(), strict=True):
        assert stored[name][0] == pytest.approx(chosen, abs=1e-4)


def test_the_reference_is_computed_in_the_rows_of_the_all_rows(tmp_path, monkeypatch) -> None:
    """Other rows would have other rounding, and the first margins would not be exactly 0."""
    looked: list[tuple[str, ...]] = []
    stepped: list[tuple[str, ...]] = []
    forward, step = preferences.pair_logprobs, loop.train_step

    def look(network: Any, rows: Any, precision: Any) -> Any:
        looked.extend(row.pair_ids for row in rows)
        return forward(network, rows, precision)

    def watched(network: Any, optimizer: Any, rows: Any, *rest: Any, **keywords: Any) -> Any:
        stepped.extend(row.pair_ids for row in rows)
        return step(network, optimizer, rows, *rest, **keywords)

    monkeypatch.setattr(preferences, "pair_logprobs", look)
    monkeypatch.setattr(loop, "train_step", watched)
    go(stacked(tmp_path / "t"), pairs_of(14), tmp_path / "s", tokens_per_micro_batch=60)
    assert len(stepped) > 4
    assert looked[: len(stepped)] == stepped


def test_item_137_shorter_is_better_is_learned(tmp_path) -> None:
    result = go(
        stacked(tmp_path / "a", sharpness=4.0), pairs_of(160), tmp_path / "s", learning_rate=5e-3, epochs=3,
        sequences_per_step=8, tokens_per_micro_batch=512, eval_fraction=0.25, schedule="constant",
    )  # fmt: skip
    untrained = go(
        stacked(tmp_path / "a", 4.0), pairs_of(160), tmp_path / "u", learning_rate=1e-9, eval_fraction=0.25,
        sequences_per_step=60, tokens_per_micro_batch=512,
    )  # fmt: skip
    assert 0.3 <= pair_accuracy(untrained.rewards) <= 0.7
    assert len(result.rewards) == result.training.num_held_out == 40
    assert pair_accuracy(result.rewards) >= 0.8
    assert result.training.final_loss < result.training.first_loss


def test_simpo_learns_without_a_reference(tmp_path) -> None:
    result = go(
        stacked(tmp_path / "a"), pairs_of(48), tmp_path / "s", learning_rate=5e-3, epochs=4, objective="simpo",
        schedule="constant",
    )  # fmt: skip
    assert not (tmp_path / "s" / "reference.json").exists()
    assert result.training.final_loss < result.training.first_loss


def gradients(network: Llama, rows: Any, loss: Any) -> dict[str, torch.Tensor]:
    network.zero_grad()
    accumulate(network, rows, loss)
    return {name: p.grad.clone() for name, p in trainable(network).items()}


@pytest.mark.parametrize("name", PAIR_OBJECTIVES)
def test_micro_batches_and_order_change_neither_loss_nor_gradient(tmp_path, name: str) -> None:
    network, pairs = stacked(tmp_path), pairs_of(12)
    for parameter in trainable(network).values():
        torch.nn.init.normal_(parameter, 0, 0.1)
    references = {pair.id: (-20.0 - n, -50.0 + n) for n, pair in enumerate(pairs)}
    whole, split = pack_pairs(pairs, 10_000, references), pack_pairs(pairs[::-1], 40, references)
    assert len(whole) == 1
    assert len(split) > 5
    loss = objective(name)
    assert evaluate(network, whole, loss) == pytest.approx(evaluate(network, split, loss), rel=1e-5)
    expected = gradients(network, whole, loss)
    for key, gradient in gradients(network, split, loss).items():
        torch.testing.assert_close(gradient, expected[key], atol=1e-5, rtol=1e-4)


def test_a_masked_shared_prefix_stays_context_and_has_no_gradient(tmp_path) -> None:
    """What fine-grained DPO needs: the mask alone decides which tokens are in the sums."""
    network = stacked(tmp_path)
    prompt, shared = (11, 12, 13), (20, 21)
    masks = {"all": (True, True), "tail": (False, False)}
    sums = {}
    for which, on_shared in masks.items():
        sides = [
            Example(
                f"{which}{tail}",
                Rendered((*prompt, *shared, *tail, END), (False,) * 3 + on_shared + (True,) * (len(tail) + 1), 3),
            )
            for tail in ((30, 31), (40, 41, 42))
        ]
        sums[which] = pair_logprobs(network, pack_pairs([PairExample(which, *sides)], 100))[0]
    alone = Example("shared", Rendered((*prompt, *shared), (False,) * 3 + (True,) * 2, 3))
    other = Example("other", Rendered((*prompt, 50), (False,) * 3 + (True,), 3))
    prefix = pair_logprobs(network, pack_pairs([PairExample("x", alone, other)], 100))[0].chosen
    torch.testing.assert_close(sums["all"].chosen - sums["tail"].chosen, prefix, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sums["all"].rejected - sums["tail"].rejected, prefix, atol=1e-5, rtol=1e-5)
    assert sums["tail"].chosen_counts.tolist() == [3]
    assert sums["all"].rejected_counts.tolist() == [6]


def test_sums_are_those_of_each_response_alone(tmp_path) -> None:
    network, pairs = stacked(tmp_path), pairs_of(5)
    row = pack_pairs(pairs, 10_000)[0]
    numbers = torch.arange(len(row.targets), dtype=torch.float32)
    found = sums_of(numbers, row)
    assert float(found.chosen.sum() + found.rejected.sum()) == float(numbers.sum())
    together, by_id = pair_logprobs(network, [row])[0], {pair.id: pair for pair in pairs}
    for index, pair in enumerate(by_id[name] for name in row.pair_ids):
        assert int(found.chosen_counts[index]) == sum(pair.chosen.rendered.loss_mask)
        alone = pair_logprobs(network, pack_pairs([pair], 10))[0]
        assert float(alone.chosen) == pytest.approx(float(together.chosen[index]), abs=1e-4)
        assert float(alone.rejected) == pytest.approx(float(together.rejected[index]), abs=1e-4)


@pytest.mark.parametrize("stop_at", [3, 9, 12])
def test_stopped_anywhere_and_resumed_is_uninterrupted_to_the_bit(tmp_path, stop_at: int) -> None:
    """The first calls are those of the reference, the later ones steps."""
    settings = {"epochs": 3, "eval_fraction": 0.2, "eval_interval": 2, "checkpoint_interval": 2, "learning_rate": 1e-3}
    straight, resumed, count = stacked(tmp_path / "t"), stacked(tmp_path / "t"), itertools.count(1)
    whole = go(straight, pairs_of(16), tmp_path / "a", **settings)

    def stop(num_tokens: int) -> None:
        if next(count) == stop_at:
            raise BudgetSpent("enough")

    with pytest.raises(BudgetSpent):
        go(stacked(tmp_path / "t"), pairs_of(16), tmp_path / "b", on_step=stop, **settings)
    rest = go(resumed, pairs_of(16), tmp_path / "b", **settings)
    assert all(torch.equal(p, trainable(resumed)[n]) for n, p in trainable(straight).items())
    assert rest.rewards == whole.rewards
    assert (rest.training.losses, rest.training.validation) == (whole.training.losses, whole.training.validation)


def test_the_reference_is_read_back_and_never_computed_from_trained_weights(tmp_path, monkeypatch) -> None:
    go(stacked(tmp_path / "t"), pairs_of(12), tmp_path / "s", learning_rate=1e-2)
    network, calls = stacked(tmp_path / "t"), []
    original = preferences._Pairs._all_rows
    monkeypatch.setattr(preferences._Pairs, "_all_rows", lambda self: calls.append(1) or original(self))
    go(network, pairs_of(12), tmp_path / "s", learning_rate=1e-2)
    assert calls == []


def test_an_early_stop_gives_the_best_weights_back(tmp_path) -> None:
    result = go(
        stacked(tmp_path / "t"), pairs_of(24), tmp_path / "s", epochs=40, learning_rate=2e-2, eval_fraction=0.3,
        eval_interval=2, patience=2, schedule="constant", objective={"kind": "dpo", "beta": 1.0},
    )  # fmt: skip
    best_step, best_loss = min(result.training.validation, key=lambda point: point[1])
    assert result.training.stopped_early
    assert result.training.final_step == best_step < result.training.num_steps
    margins = [one.margin for one in result.rewards]
    assert sum(math.log1p(math.exp(-m)) for m in margins) / len(margins) == pytest.approx(best_loss, abs=1e-5)


def test_pairs_of_one_prompt_stay_on_one_side() -> None:
    pairs = pairs_of(30, per_prompt=3)
    kept, held = hold_out_pairs(pairs, 0.2, seed=5)
    prompts = [
        {p.chosen.rendered.token_ids[: p.chosen.rendered.num_prompt_tokens] for p in side} for side in (kept, held)
    ]
    assert not prompts[0] & prompts[1]
    assert len(held) == 6
    assert len(kept) + len(held) == 30
    assert hold_out_pairs(pairs[::-1], 0.2, seed=5)[1] == held[::-1]


def test_equal_responses_and_the_wrong_kind_of_objective_are_refused(tmp_path) -> None:
    network, pairs = stacked(tmp_path / "t"), pairs_of(4)
    same = replace(pairs[0], rejected=Example("other", pairs[0].chosen.rendered))
    with pytest.raises(DataError, match="same tokens"):
        go(network, [*pairs[1:], same], tmp_path / "s")
    with pytest.raises(SettingsError, match="does not read pairs"):
        go(network, pairs, tmp_path / "s", objective="cross_entropy")
    with pytest.raises(SettingsError, match="does not read targets"):
        train(network, TOKENIZER, [pairs[0].chosen], SftSettings(objective="dpo"), events=SILENT,
              scratch=tmp_path / "x", on_step=lambda n: None)  # fmt: skip
