"""Reward models: objectives by hand, where an answer is read, learning, resume, load and save. Items 298-302, 310."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from torch.nn import functional

from rung.base.errors import BudgetSpent, DataError, ModelError, SettingsError
from rung.base.events import Events
from rung.base.lookup import known, lookup, part
from rung.models.families.llama import Llama
from rung.models.head import attach_head, build_head, head_outputs, load_head, save_head, take_off
from rung.models.layers.attend import CausalAttend
from rung.records.chat.frame import Rendered
from rung.records.packing import DataReport, Example
from rung.records.tokenizer import Tokenizer
from rung.train import rewards as rewards_module
from rung.train.adapters import base_hash, prepare, trainable
from rung.train.objectives.hierarchical import Hierarchical
from rung.train.reward_rows import (
    RewardData,
    RewardExample,
    RewardLabels,
    hold_out_groups,
    labels_of,
    pack_rewards,
)
from rung.train.rewards import keep_states, train_prepared, train_reward
from rung.train.settings import AdapterSettings, RewardSettings
from rung.train.step import accumulate, reward_outputs

END = 2
TOKENIZER = Tokenizer(tokenizers.Tokenizer(tokenizers.models.WordLevel({"<end>": END}, "<end>")), end_ids=(END,))
SILENT = Events()
REWARD_OBJECTIVES = [
    name for name in known("train.objectives") if hasattr(lookup("train.objectives", name), "answer_losses")
]
NAN = float("nan")


def objective(name: str, **settings: Any) -> Any:
    kind, own = part("train.objectives", {"kind": name, **settings})
    return kind(own)


def labelled(values: list[list[float]], attributes: tuple[str, ...] = ("a", "b"), **pairs: Any) -> RewardLabels:
    return RewardLabels(
        attributes,
        torch.tensor(values, dtype=torch.float64),
        torch.tensor(pairs.get("chosen", []), dtype=torch.long),
        torch.tensor(pairs.get("rejected", []), dtype=torch.long),
        torch.tensor(pairs.get("strengths", []), dtype=torch.float64),
    )


SCORES = torch.tensor([[1.5], [0.25], [-2.0], [0.25]], dtype=torch.float64)
PAIRS = labelled([[]] * 4, (), chosen=[0, 2, 1], rejected=[1, 0, 3], strengths=[1.0, 3.0, 2.0])
D = [1.25, -3.5, 0.0]


def test_bradley_terry_is_what_its_formulas_say() -> None:
    def losses(variant: str) -> list[float]:
        return list(objective("bradley_terry", variant=variant).answer_losses(SCORES, PAIRS).tolist())

    assert losses("plain") == pytest.approx([math.log1p(math.exp(-d)) for d in D], abs=1e-12)
    strengths = [1.0, 3.0, 2.0]
    wanted = [math.log1p(math.exp(-(d - m))) for d, m in zip(D, strengths, strict=True)]
    assert losses("margin") == pytest.approx(wanted, abs=1e-12)
    wanted = [m * math.log1p(math.exp(-d)) for d, m in zip(D, strengths, strict=True)]
    assert losses("scaled") == pytest.approx(wanted, abs=1e-12)


def test_regression_leaves_missing_labels_out_and_weighs_the_others() -> None:
    """Sum of w (p - y)^2 over sum of w, over the labels that are there."""
    found = objective("attribute_regression", weights={"b": 3.0})
    labels = labelled([[1.0, NAN], [NAN, 0.5], [0.0, 2.0]])
    outputs = torch.tensor([[0.5, 9.0], [7.0, 1.0], [0.5, 1.0]], dtype=torch.float64, requires_grad=True)
    weights, losses = found.label_weights(labels), found.answer_losses(outputs, labels)
    assert weights.tolist() == [1, 0, 0, 3, 1, 3]
    loss = (losses * weights).sum() / weights.sum()
    assert loss.item() == pytest.approx((0.25 + 3 * 0.25 + 0.25 + 3 * 1.0) / 8, abs=1e-12)
    loss.backward()
    assert outputs.grad.tolist()[0][1] == 0.0, "a missing label pulls at nothing"
    assert outputs.grad.tolist()[1][0] == 0.0
    assert bool(torch.isfinite(outputs.grad).all())


def test_pinball_by_hand_and_under_prediction_costs_more_at_a_high_level() -> None:
    """Levels .25 and .75, quantiles -1 and 0.5: label 0 gives (1 * .25 + .5 * .25) / 2, label 2 (3*.25 + 1.5*.75)/2."""
    found = objective("quantile", num_levels=2)
    assert found.levels == (0.25, 0.75)
    gap = math.log(math.expm1(1.5))  # softplus(gap) = 1.5; the middle of two is the upper one
    outputs = torch.tensor([[0.5, gap], [0.5, gap]], dtype=torch.float64)
    assert found.values(outputs).flatten(0, 1)[0].tolist() == pytest.approx([-1.0, 0.5], abs=1e-12)
    losses = found.answer_losses(outputs, labelled([[0.0], [2.0]], ("a",))).tolist()
    assert losses == pytest.approx([(0.25 + 0.125) / 2, (0.75 + 1.125) / 2], abs=1e-12)
    ninth = objective("quantile", num_levels=5)
    assert ninth.levels[-1] == pytest.approx(0.9)
    flat = torch.zeros(1, 5, dtype=torch.float64)
    at = float(ninth.values(flat)[0, 0, -1])
    low = torch.tensor([[at - 1.0]]), torch.tensor([[at + 1.0]])
    over, under = ((float(y) - at) * (0.9 - (float(y) < at)) for y in low)
    assert under == pytest.approx(9 * over)


def test_quantiles_never_cross_whatever_the_outputs_are() -> None:
    drawn = torch.Generator().manual_seed(0)
    values = objective("quantile", num_levels=9).values(50 * torch.randn(200, 18, generator=drawn))
    assert values.shape == (200, 2, 9)
    assert bool((values.diff(dim=-1) >= 0).all())


def test_the_hierarchical_loss_is_two_cross_entropies_on_their_own_samples() -> None:
    found = objective("hierarchical", soundness_weight=2.0)
    labels = labelled([[1.0, NAN], [0.0, NAN], [NAN, 0.25]], ("soundness", "coherence"))
    logits = torch.tensor([[2.0, 5.0], [1.0, -5.0], [9.0, -1.0]], dtype=torch.float64)
    weights, losses = found.label_weights(labels), found.answer_losses(logits, labels)
    assert weights.tolist() == [2, 0, 2, 0, 0, 1]
    hard = [math.log1p(math.exp(-2.0)), math.log1p(math.exp(1.0))]
    soft = 0.25 * math.log1p(math.exp(1.0)) + 0.75 * math.log1p(math.exp(-1.0))
    assert float((losses * weights).sum()) == pytest.approx(2 * sum(hard) + soft, abs=1e-12)


def test_item_310_sound_steps_to_a_wrong_end_rank_below_clumsy_ones_to_a_right_end() -> None:
    found = Hierarchical(Hierarchical.Settings(step_weight=0.3))
    assert found.combined(1.0, 0.6) < found.combined(0.0, 0.9)
    assert found.combined(0.2, 0.5) == pytest.approx(0.5 * (1 - 0.3 * 0.8))
    for clumsy in (0.0, 0.3, 0.6):
        assert found.combined(1.0, 0.69) < found.combined(clumsy, 1.0)


@pytest.mark.parametrize("name", REWARD_OBJECTIVES)
def test_losses_depend_on_nothing_but_their_own_answer(name: str) -> None:
    """Order, neighbours and what stands in for a missing label change no loss; gradients are right."""
    found, drawn = objective(name), torch.Generator().manual_seed(1)
    values = torch.rand(6, 2, generator=drawn, dtype=torch.float64)
    values[1, 0], values[4, 1] = NAN, NAN
    attributes = getattr(type(found), "attributes", ("a", "b"))
    labels = labelled(values.tolist(), attributes, chosen=[0, 3], rejected=[2, 5], strengths=[1.0, 2.0])
    outputs = torch.randn(6, found.num_outputs(2), generator=drawn, dtype=torch.float64)
    losses = found.answer_losses(outputs, labels)
    assert bool(torch.isfinite(losses).all())
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    back = torch.argsort(order)
    turned = replace(labels, values=values[order], chosen=back[labels.chosen], rejected=back[labels.rejected])
    again = found.answer_losses(outputs[order], turned)
    if found.reads == "pairs":
        torch.testing.assert_close(again, losses, atol=1e-12, rtol=0)
    else:
        torch.testing.assert_close(again.view(6, -1)[back], losses.view(6, -1), atol=1e-12, rtol=0)
        alone = found.answer_losses(outputs[2:3], replace(labels, values=values[2:3]))
        torch.testing.assert_close(alone, losses.view(6, -1)[2], atol=1e-12, rtol=0)
    assert torch.autograd.gradcheck(
        lambda x: (found.answer_losses(x, labels) * found.label_weights(labels)).sum(), outputs.requires_grad_()
    )


def answer(name: str, prompt: list[int], response: list[int]) -> Example:
    ids = (*prompt, *response, END)
    return Example(name, Rendered(ids, (False,) * len(prompt) + (True,) * (len(response) + 1), len(prompt)))


GOOD, BAD = 7, 8


def planted_pairs(num: int, seed: int = 0) -> RewardData:
    """The better response has the token GOOD in it, the worse one BAD, among others, at uneven lengths."""
    draw = torch.Generator().manual_seed(seed)
    examples = []
    for i in range(num):
        prompt = torch.randint(10, 290, (3 + i % 5,), generator=draw).tolist()
        sides = []
        for mark in (GOOD, BAD):
            words = torch.randint(10, 290, (2 + int(torch.randint(0, 4, (1,), generator=draw)),), generator=draw)
            sides.append([*words.tolist(), mark])
        pair = tuple(answer(f"p{i}:{n}", prompt, side) for n, side in enumerate(sides))
        examples.append(RewardExample(f"p{i}", f"g{i // 2}", pair, strength=1.0 + i % 3))
    return RewardData(tuple(examples))


def graded(num: int, seed: int = 0) -> RewardData:
    """First attribute: how many of the tokens are GOOD; second: whether BAD stands there; some labels are missing."""
    draw = torch.Generator().manual_seed(seed)
    examples = []
    for i in range(num):
        good, bad = int(torch.randint(0, 3, (1,), generator=draw)), int(torch.randint(0, 2, (1,), generator=draw))
        words = torch.randint(10, 290, (2 + i % 3,), generator=draw).tolist()
        labels = (None if i % 5 == 1 else good / 2, None if i % 5 == 3 else float(bad))
        text = answer(f"a{i}", [11, 12, 13], [*words, *[GOOD] * good, *[BAD] * bad])
        examples.append(RewardExample(f"a{i}", f"g{i}", (text,), labels))
    return RewardData(tuple(examples), ("good", "bad"))


def tiny(num_outputs: int, kind: str = "none", head: Any = "linear", frozen: bool = False) -> Llama:
    network = Llama.build(Llama.SIZES["tiny"], seed=0)
    if frozen:
        network.requires_grad_(False)
    else:
        prepare(network, AdapterSettings(kind=kind, rank=4), seed=0)
    attach_head(network, build_head(head, network.shape.width, num_outputs, seed=0))
    return network


def go(network: Any, data: RewardData, scratch: Path, on_step: Any = lambda tokens: None, **settings: Any) -> Any:
    values = {
        "eval_fraction": 0.0, "patience": 0, "sequences_per_step": 8, "tokens_per_micro_batch": 64,
        "schedule": "constant", **settings,
    }  # fmt: skip
    chosen = RewardSettings(**values)
    return train_reward(network, TOKENIZER, data, chosen, events=SILENT, scratch=scratch, on_step=on_step)


def outputs_of(network: Any, data: RewardData, max_tokens: int = 10_000) -> dict[str, list[float]]:
    """The head's outputs by answer."""
    rows = pack_rewards(data, range(len(data.examples)), max_tokens)
    return {
        name: values
        for row, found in zip(rows, reward_outputs(network, rows), strict=True)
        for name, values in zip(row.ids, found.tolist(), strict=True)
    }


def head_filled(network: Any, amount: float = 0.3) -> Any:
    """Random weights in the head, so that what it reads can be told."""
    drawn = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.startswith("reward_head"):
                weight.copy_(amount * torch.randn(weight.shape, generator=drawn))
    return network


def test_an_answer_is_read_at_its_last_real_token_even_where_pad_is_end_and_stands_in_the_prompt() -> None:
    """Known failure 11: pad = eos, and the first eos is in the prompt."""
    network = head_filled(tiny(1))
    made = answer("x", [11, END, 12, 13], [14, END, 15])
    data = RewardData((RewardExample("x", "g", (made,), (1.0,)),), ("a",))
    ids = list(made.rendered.token_ids)
    with torch.no_grad():
        hidden = network.hidden(torch.tensor([ids]), torch.arange(len(ids))[None], CausalAttend())
        padded = torch.tensor([[*ids, END, END, END]])
        beyond = network.hidden(padded, torch.arange(len(ids) + 3)[None], CausalAttend())
        wanted = head_outputs(network, hidden[0, -1:]).item()
        others = [head_outputs(network, beyond[0, n : n + 1]).item() for n in (1, 5, len(ids), len(ids) + 2)]
    assert outputs_of(network, data)["x"][0] == pytest.approx(wanted, abs=1e-5)
    assert all(abs(other - wanted) > 1e-3 for other in others), "other places would be noticed"


@pytest.mark.parametrize("name", REWARD_OBJECTIVES)
def test_packing_order_and_micro_batches_change_no_gradient(name: str) -> None:
    found = objective(name)
    data = planted_pairs(12) if found.reads == "pairs" else graded(16)
    if name == "hierarchical":
        data = RewardData(data.examples, ("soundness", "coherence"))
    network = head_filled(tiny(found.num_outputs(2)))
    order = [*range(1, len(data.examples), 2), *range(0, len(data.examples), 2)]
    gradients = []
    for indices, size in ((range(len(data.examples)), 10_000), (order, 24)):
        network.zero_grad()
        rows = pack_rewards(data, indices, size)
        loss = accumulate(network, rows, found)
        gradients.append((loss, {n: p.grad.clone() for n, p in trainable(network).items() if p.grad is not None}))
    assert len(rows) > 4
    assert gradients[1][0] == pytest.approx(gradients[0][0], abs=1e-5)
    assert gradients[0][1].keys() == gradients[1][1].keys()
    for key, gradient in gradients[0][1].items():
        torch.testing.assert_close(gradients[1][1][key], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("variant", ["plain", "margin", "scaled"])
def test_pairs_are_learnt_by_an_adapter(tmp_path: Path, variant: str) -> None:
    network = tiny(1, "lora")
    before = base_hash_without_head(network)
    result = go(
        network, planted_pairs(64), tmp_path, epochs=8, learning_rate=5e-3,
        objective={"kind": "bradley_terry", "variant": variant},
    )  # fmt: skip
    unseen = planted_pairs(40, seed=9)
    scores = outputs_of(network, unseen)
    won = sum(scores[f"p{i}:0"][0] > scores[f"p{i}:1"][0] for i in range(40))
    assert result.final_loss < result.first_loss
    assert won >= 36
    assert base_hash_without_head(network) == before


def base_hash_without_head(network: Any) -> str:
    head = take_off(network)
    try:
        return base_hash(network)
    finally:
        attach_head(network, head)


def test_a_frozen_body_goes_over_each_answer_once_and_gives_what_the_whole_way_gives(tmp_path: Path) -> None:
    data, read = planted_pairs(24), []
    network = tiny(1, frozen=True)
    go(network, data, tmp_path, on_step=read.append, epochs=3, learning_rate=1e-2)
    assert sum(read[:-9]) == sum(e.num_tokens for e in data.examples), "every answer once"
    assert sum(read[-9:]) == 3 * 48, "then nine steps of one token per answer"
    whole = outputs_of(network, data)
    states, short = keep_states(network, data, RewardSettings(), tmp_path, lambda tokens: None)
    attach_head(states, take_off(network))
    for name, values in outputs_of(states, short).items():
        assert values == pytest.approx(whole[name], abs=1e-5)
    assert whole["p0:0"] != whole["p0:1"]


def test_states_that_are_kept_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, settings, network = planted_pairs(6), RewardSettings(), tiny(1, frozen=True)
    first, _ = keep_states(network, data, settings, tmp_path, lambda tokens: None)
    monkeypatch.setattr(rewards_module, "hidden_at_ends", None)
    again, _ = keep_states(network, data, settings, tmp_path, lambda tokens: None)
    assert torch.equal(first.states_MD, again.states_MD)
    with pytest.raises(TypeError):
        keep_states(network, planted_pairs(6, seed=1), settings, tmp_path, lambda tokens: None)


@pytest.mark.parametrize(("name", "each"), [("attribute_regression", 1), ("quantile", 3)])
def test_item_300_a_weight_of_zero_leaves_that_output_untrained(tmp_path: Path, name: str, each: int) -> None:
    network = tiny(2 * each, frozen=True)
    spec = {"kind": name, "weights": {"bad": 0.0}, **({"num_levels": each} if name == "quantile" else {})}
    usable = [e for e in graded(40).examples if e.labels[0] is not None]
    go(network, RewardData(tuple(usable), ("good", "bad")), tmp_path, epochs=3, learning_rate=1e-2, objective=spec)
    head = take_off(network)
    assert head.weight[:each].abs().sum().item() > 0
    assert head.weight[each:].abs().sum().item() == 0.0
    assert head.bias[each:].abs().sum().item() == 0.0


def test_items_298_302_attributes_are_learnt_from_the_labels_that_are_there(tmp_path: Path) -> None:
    network = tiny(2, "lora")
    settings = {"epochs": 12, "learning_rate": 5e-3, "schedule": "cosine"}
    go(network, graded(256), tmp_path, **settings, objective="attribute_regression")
    unseen = graded(60, seed=5)
    found = outputs_of(network, unseen)
    for place in (0, 1):
        pairs = [(found[e.id][place], e.labels[place]) for e in unseen.examples if e.labels[place] is not None]
        mean = sum(y for _, y in pairs) / len(pairs)
        error = sum((p - y) ** 2 for p, y in pairs)
        assert error < 0.5 * sum((mean - y) ** 2 for _, y in pairs), "it beats saying the mean"


def test_item_299_quantiles_on_synthetic_data_cover_what_they_say(tmp_path: Path) -> None:
    """y ~ x0 + exp(x1) Exp(1): skewed, and wider where x1 is large. 10 % and 90 % within three points."""
    drawn = torch.Generator().manual_seed(2)
    num, width = 6000, 8
    states = torch.randn(num, width, generator=drawn)
    normal = functional.layer_norm(states, (width,))
    noise = -torch.rand(num, generator=drawn).log()
    labels = normal[:, 0] + (0.5 * normal[:, 1]).exp() * noise
    examples = tuple(
        RewardExample(str(n), str(n), (Example(str(n), Rendered((n,), (True,), 0)),), (float(labels[n]),))
        for n in range(num)
    )
    shape = Llama.build(Llama.SIZES["tiny"], seed=0).shape
    network = rewards_module.KeptStates(states, replace(shape, width=width))
    attach_head(network, build_head({"kind": "mlp", "inner_width": 32}, width, 5, seed=0))
    settings = RewardSettings(
        epochs=30, learning_rate=1e-2, sequences_per_step=500, tokens_per_micro_batch=10_000, schedule="cosine",
        eval_fraction=0.0, patience=0, objective={"kind": "quantile", "num_levels": 5},
    )  # fmt: skip
    train, test = RewardData(examples[:4000], ("a",)), RewardData(examples[4000:], ("a",))
    found = objective("quantile", num_levels=5)
    report = DataReport(4000, 4000, 4000, (), None)
    train_prepared(network, train, settings, (report, []), events=SILENT, scratch=tmp_path, on_step=lambda tokens: None)
    row = pack_rewards(test, range(2000), 10_000)[0]
    values = found.values(reward_outputs(network, [row])[0])[:, 0]
    known = labels_of(row).values
    for place, level in ((0, 0.1), (4, 0.9)):
        assert float((known[:, 0] <= values[:, place]).float().mean()) == pytest.approx(level, abs=0.03)
    spread = values[:, 4] - values[:, 0]
    wide = torch.tensor([float(normal[int(name), 1]) for name in row.ids]) > 0
    assert float(spread[wide].mean()) > 1.5 * float(spread[~wide].mean()), "the width follows the answer"


@pytest.mark.parametrize("frozen", [True, False])
def test_interrupted_anywhere_it_ends_at_the_same_weights(tmp_path: Path, frozen: bool) -> None:
    data, settings = planted_pairs(20), {"epochs": 2, "learning_rate": 1e-2, "eval_fraction": 0.2, "eval_interval": 2}
    whole = tiny(1, "lora", frozen=frozen)
    go(whole, data, tmp_path / "whole", **settings, patience=2)
    wanted = {name: p.detach().clone() for name, p in trainable(whole).items()}

    def stop(tokens: int) -> None:
        raise BudgetSpent("enough")

    for number in itertools.count():
        network = tiny(1, "lora", frozen=frozen)
        try:
            go(network, data, tmp_path / "parts", on_step=stop if number < 3 else lambda tokens: None, **settings,
               patience=2)  # fmt: skip
            break
        except BudgetSpent:
            continue
    assert number == 3
    found = trainable(network)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], weight) for name, weight in wanted.items())


@pytest.mark.parametrize("spec", ["linear", {"kind": "mlp", "inner_width": 16}])
def test_item_292_a_head_that_is_saved_and_loaded_gives_the_same_scores(tmp_path: Path, spec: Any) -> None:
    network, data = head_filled(tiny(3, frozen=True, head=spec)), planted_pairs(4)
    before = outputs_of(network, data)
    facts = RewardSettings()
    save_head(take_off(network), spec, facts, tmp_path)
    bytes_first = (tmp_path / "reward_head.safetensors").read_bytes()
    head, known_facts = load_head(tmp_path, network.shape.width)
    attach_head(network, head)
    assert outputs_of(network, data) == before
    assert known_facts["head"] == "linear"
    assert not any(p.requires_grad for p in head.parameters())
    save_head(take_off(network), spec, facts, tmp_path)
    assert (tmp_path / "reward_head.safetensors").read_bytes() == bytes_first
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_head(tmp_path, network.shape.width + 1)


def test_groups_are_held_out_whole() -> None:
    data = planted_pairs(20)
    training, held = hold_out_groups(data, 0.2, 3)
    assert {e.group for e in training.examples}.isdisjoint(e.group for e in held.examples)
    assert len(held.examples) >= 4
    assert len(training.examples) + len(held.examples) == 20
    assert hold_out_groups(data, 0.0, 3)[1].examples == ()
    assert len(hold_out_groups(data, 1.0, 3)[0].examples) > 0


def test_what_cannot_be_trained_on_is_refused(tmp_path: Path) -> None:
    network = tiny(1, frozen=True)
    with pytest.raises(DataError, match="no pair"):
        go(network, graded(4), tmp_path, objective="bradley_terry")
    bare = RewardExample("x", "g", (answer("x", [11], [12]),), (None, None))
    with pytest.raises(DataError, match="no label that counts"):
        go(network, RewardData((bare,), ("good", "bad")), tmp_path, objective="attribute_regression")
    spec = {"kind": "attribute_regression", "weights": {"god": 1.0}}
    with pytest.raises(SettingsError, match="no attribute is called 'god'"):
        go(network, graded(4), tmp_path, objective=spec)
    with pytest.raises(SettingsError, match="does not read answers"):
        go(network, planted_pairs(4), tmp_path, objective="dpo")
    same = (answer("y:0", [11], [12]), answer("y:1", [11], [12]))
    with pytest.raises(DataError, match="the same tokens"):
        go(network, RewardData((RewardExample("y", "g", same),)), tmp_path)
    with pytest.raises(ModelError, match="no head"):
        take_off(Llama.build(Llama.SIZES["tiny"], seed=0))


RIGHT, WRONG = 5, 6
FLAWS = {"sound": (GOOD, RIGHT), "step": (BAD, RIGHT), "end": (GOOD, WRONG)}


def solutions(num: int, seed: int) -> dict[str, list[Example]]:
    """Per answer `question-kind` its two steps, each after what came before it, and the whole: a flaw is BAD in a step,
    or WRONG in the last place."""
    draw, made = torch.Generator().manual_seed(seed), {}
    for number in range(num):
        asked = torch.randint(10, 290, (3,), generator=draw).tolist()
        for kind, (mark, end) in FLAWS.items():
            steps = [[*torch.randint(10, 290, (2,), generator=draw).tolist(), m] for m in (mark, GOOD)]
            name = f"{number}-{kind}"
            made[name] = [
                answer(f"{name}:0", asked, steps[0]),
                answer(f"{name}:1", [*asked, *steps[0]], steps[1]),
                answer(f"{name}:all", asked, [*steps[0], *steps[1], 4, end]),
            ]
    return made


def test_item_309_a_trained_hierarchical_model_beats_either_part_alone_on_both_kinds_of_flaw(tmp_path: Path) -> None:
    examples = []
    for name, (first, second, whole) in solutions(60, seed=1).items():
        kind = name.partition("-")[2]
        labels = ((float(kind != "step"), None), (1.0, None), (None, float(kind != "end")))
        for one, own in zip((first, second, whole), labels, strict=True):
            examples.append(RewardExample(one.id, name.partition("-")[0], (one,), own))
    network = tiny(2, "lora")
    data = RewardData(tuple(examples), Hierarchical.attributes)
    go(network, data, tmp_path, epochs=6, learning_rate=5e-3, schedule="cosine", objective="hierarchical")
    unseen = solutions(30, seed=8)
    asked = tuple(RewardExample(one.id, "g", (one,)) for pieces in unseen.values() for one in pieces)
    found = {name: torch.tensor(v).sigmoid().tolist() for name, v in outputs_of(network, RewardData(asked)).items()}
    parts = {name: ((found[f"{name}:0"][0] + found[f"{name}:1"][0]) / 2, found[f"{name}:all"][1]) for name in unseen}
    combined = Hierarchical(Hierarchical.Settings()).combined
    ways = {"soundness": lambda s, c: s, "coherence": lambda s, c: c, "both": combined}
    pairs = [(f"{n}-{better}", f"{n}-{worse}") for n in range(30) for better, worse in itertools.combinations(FLAWS, 2)]
    won = {way: sum(of(*parts[a]) > of(*parts[b]) for a, b in pairs) / len(pairs) for way, of in ways.items()}
    assert won["both"] > 0.9
    assert won["both"] > max(won["soundness"], won["coherence"]) + 0.1, won
