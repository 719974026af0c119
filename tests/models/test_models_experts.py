"""Mixture of experts: the reference blocks, both products, capacity, padding, balancing figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.models.minimax_m2.modeling_minimax_m2 import MiniMaxM2SparseMoeBlock
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock, load_balancing_loss_func

from rung.base.errors import SettingsError
from rung.base.settings import validate
from rung.engine.engine import Engine
from rung.engine.settings import EngineSettings
from rung.models.families.coder import Coder
from rung.models.layers.attend import CausalAttend, PackedAttend
from rung.models.layers.balance import BalanceOptions, ExpertBalance, balance_loss, max_violation
from rung.models.layers.experts import PLACES, Noted, Plan, SparseFeedForward
from rung.models.layers.feed_forward import GatedFeedForward
from rung.models.layers.router import PART, Router, RouterOptions
from rung.models.load import load
from rung.models.publish import publish
from rung.models.published import open_network
from rung.records.contracts import Completion, Request, Sampling

WIDTH, INNER, EXPERTS, ACTIVE = 16, 24, 8, 2
TINY = Coder.SIZES["tiny"]


def filled(module: torch.nn.Module, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module


def block(capacity_factor: float = 0.0, **options: Any) -> SparseFeedForward:
    chosen = RouterOptions(**{"width": WIDTH, "num_experts": EXPERTS, "num_active": ACTIVE, **options})
    return filled(SparseFeedForward(chosen, INNER, capacity_factor))


def tokens(num_rows: int = 2, num_tokens: int = 37, seed: int = 1) -> torch.Tensor:
    return torch.randn(num_rows, num_tokens, WIDTH, generator=torch.Generator().manual_seed(seed))


def reference(kind: type[Any], config: type[Any], ours: SparseFeedForward) -> Any:
    theirs = kind(
        config(hidden_size=WIDTH, intermediate_size=INNER, num_local_experts=EXPERTS, num_experts_per_tok=ACTIVE)
    )
    state = {name: tensor for name, tensor in ours.state_dict().items() if "bias" not in name}
    theirs.load_state_dict(state, strict=False)
    return theirs


def gradients(module: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    x = x.clone().requires_grad_()
    out = module(x, None)[0] if isinstance(module, SparseFeedForward) else module(x)
    (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    assert x.grad is not None
    return {"x": x.grad, "out": out.detach(), **{name: p.grad for name, p in module.named_parameters()}}


def test_the_block_is_mixtrals_forward_and_backward() -> None:
    ours = block()
    expected = gradients(reference(MixtralSparseMoeBlock, transformers.MixtralConfig, ours), tokens())
    for name, tensor in gradients(ours, tokens()).items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens(), None)[0], expected["out"], atol=1e-5, rtol=1e-4)


def test_sigmoid_scores_and_a_bias_are_minimaxs() -> None:
    ours = block(scoring="sigmoid", biased=True)
    assert ours.gate.bias_parts is not None
    ours.gate.bias_parts.copy_(torch.tensor([400, -300, 0, 200, -100, 0, 50, 900]) * 1000)
    theirs = reference(MiniMaxM2SparseMoeBlock, transformers.MiniMaxM2Config, ours)
    unbiased = theirs(tokens())
    theirs.e_score_correction_bias.copy_(ours.gate.bias_parts * PART)
    assert not torch.allclose(theirs(tokens()), unbiased, atol=1e-2)
    torch.testing.assert_close(ours(tokens(), None)[0], theirs(tokens()), atol=1e-5, rtol=1e-4)


def test_a_bias_chooses_and_neither_weighs_nor_learns() -> None:
    router = filled(Router(RouterOptions(WIDTH, EXPERTS, ACTIVE, biased=True)))
    x_ND = tokens()[0]
    before = router(x_ND)
    router.bias_parts[3] += round(10 / PART)
    after = router(x_ND)
    assert bool((after.experts == 3).any(-1).all())
    torch.testing.assert_close(after.weights.sum(-1), torch.ones(len(x_ND)))
    torch.testing.assert_close(after.probabilities, before.probabilities)
    chosen = after.probabilities.gather(1, after.experts)
    torch.testing.assert_close(after.weights, chosen / chosen.sum(-1, keepdim=True))
    assert not router.bias_parts.requires_grad
    assert router.to(torch.bfloat16).bias_parts[3] == round(10 / PART)


def test_the_router_works_in_float32_whatever_the_network_does() -> None:
    """Two experts that differ by less than bfloat16 can tell."""
    router = Router(RouterOptions(WIDTH, 2, 1))
    with torch.no_grad():
        router.weight.copy_(torch.ones(2, WIDTH))
        router.weight[1, 0] += 1e-4
    with torch.autocast("cpu", dtype=torch.bfloat16):
        routed = router(torch.ones(5, WIDTH))
    assert routed.weights.dtype == routed.probabilities.dtype == torch.float32
    assert routed.experts.flatten().tolist() == [1] * 5
    assert bool(routed.probabilities[0, 1] - routed.probabilities[0, 0] > 1e-5)


def test_one_expert_is_a_dense_layer() -> None:
    ours, dense = block(num_experts=1, num_active=1), GatedFeedForward(WIDTH, INNER, "silu")
    gate, up = ours.experts.gate_up_proj[0].chunk(2)
    dense.load_state_dict(
        {"gate_proj.weight": gate, "up_proj.weight": up, "down_proj.weight": ours.experts.down_proj[0]}
    )
    torch.testing.assert_close(ours(tokens(), None)[0], dense(tokens()), atol=1e-6, rtol=1e-5)


def test_in_evaluation_a_token_gets_the_same_bits_in_any_company() -> None:
    ours, x = block().eval(), tokens(1, 64)
    with torch.no_grad():
        whole = ours(x, None)[0]
        for size in (PLACES, 2 * PLACES):
            assert torch.equal(ours(x[:, :size], None)[0], whole[:, :size])


def test_the_auxiliary_loss_is_the_references_by_its_number_of_experts_a_token() -> None:
    """transformers pools the layers; ours, given pooled figures, must agree. Padding counts in neither."""
    layers, logits = [block().train() for _ in range(3)], []
    real_BT = torch.ones(2, 37, dtype=torch.bool)
    real_BT[1, 20:] = False
    noted = []
    for index, layer in enumerate(filled(layer, seed) for seed, layer in enumerate(layers)):
        x = tokens(seed=index)
        noted.append(layer(x, real_BT)[1])
        logits.append(x.flatten(0, 1) @ layer.gate.weight.T)
    shares = sum(note.assigned for note in noted) / sum(note.assigned.sum() for note in noted)
    probabilities = sum(note.probability for note in noted) / sum(note.num_tokens for note in noted)
    expected = load_balancing_loss_func(tuple(logits), EXPERTS, ACTIVE, real_BT.long())
    torch.testing.assert_close(ACTIVE * balance_loss(shares, probabilities), expected, atol=1e-6, rtol=1e-5)
    assert int(noted[0].num_tokens) == 57


def test_even_use_is_the_least_loss_and_no_violation() -> None:
    even = torch.full((1, EXPERTS), 1 / EXPERTS)
    assert float(balance_loss(even, even)) == pytest.approx(1.0)
    skewed = torch.tensor([[0.5, 0.2, 0.1, 0.05, 0.05, 0.05, 0.03, 0.02]])
    assert float(balance_loss(skewed, skewed)) > 2.0
    assert float(max_violation(torch.full((1, 4), 25))) == 0.0
    assert float(max_violation(torch.tensor([[70, 10, 10, 10]]))) == pytest.approx(1.8)


def test_capacity_drops_the_latest_counts_them_and_leaves_their_tokens_as_they_were() -> None:
    limited, free = block(capacity_factor=0.5, num_active=1), block(num_active=1)
    with torch.no_grad():
        for each in (limited, free):
            each.gate.weight.zero_()
            each.gate.weight[5] = 1.0
    x = tokens(1, 32).abs()
    out, noted = limited(x, None)
    expected = free(x, None)[0]
    assert noted is not None
    assert noted.assigned.tolist() == [0, 0, 0, 0, 0, 32, 0, 0]
    assert int(noted.dropped) == 30
    torch.testing.assert_close(out[:, :2], expected[:, :2])
    assert bool((out[:, 2:] == 0).all())
    with torch.no_grad():
        torch.testing.assert_close(limited.eval()(x, None)[0], expected, atol=1e-6, rtol=1e-5)


def test_padding_goes_nowhere_takes_no_place_and_is_not_counted() -> None:
    layer, x = block(capacity_factor=1.0), tokens(2, 20)
    real_BT = torch.ones(2, 20, dtype=torch.bool)
    real_BT[0, 11:] = False
    out, noted = layer(x, real_BT)
    kept = torch.cat([x[0, :11], x[1]])[None]
    alone, expected = layer(kept, None)
    assert noted is not None
    assert expected is not None
    assert bool((out[0, 11:] == 0).all())
    torch.testing.assert_close(out[real_BT], alone[0])
    for ours, theirs in zip(noted, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        assert bool((layer.eval()(x, real_BT)[0][0, 11:] == 0).all())


def test_nothing_is_noted_outside_training() -> None:
    layer = block()
    assert layer.train()(tokens(), None)[1] is not None
    assert layer.eval()(tokens(), None)[1] is None
    with torch.no_grad():
        assert layer.train()(tokens(), None)[1] is None


def test_a_plan_without_anything_to_do_is_run_all_the_same() -> None:
    plan = Plan.of(torch.zeros(3, 2, dtype=torch.long), 4, torch.zeros(3, dtype=torch.bool))
    assert plan.counts.tolist() == [0] * 4
    layer, nothing = block(), torch.zeros(1, 3, dtype=torch.bool)
    for context in (torch.enable_grad(), torch.no_grad()):
        with context:
            assert bool((layer(tokens(1, 3), nothing)[0] == 0).all())


def balanced(**options: float) -> ExpertBalance:
    chosen = BalanceOptions(**{"loss_weight": 0.0, "bias_rate": 0.0, "z_weight": 0.0, **options})
    return ExpertBalance(chosen, [filled(Router(RouterOptions(WIDTH, 4, 1, biased=True))) for _ in range(2)])


def note(load: list[int], probability: list[float]) -> list[Noted]:
    one = Noted(
        torch.tensor(load), torch.tensor(probability), torch.tensor(8.0), torch.tensor(2), torch.tensor(sum(load))
    )
    return [one, one]


def test_the_loss_uses_the_load_of_the_step_before_and_says_that_of_this_one() -> None:
    balance = balanced(loss_weight=0.5)
    balance.note(note([8, 0, 0, 0], [5.0, 1.0, 1.0, 1.0]))
    assert float(balance.take_loss()) == pytest.approx(0.5 * 8)  # even use: the weight for every token
    figures = balance.settle(lambda sums: sums)
    assert figures["experts/balance_loss"] == pytest.approx(4 * 5 / 8)
    assert figures["experts/max_violation"] == pytest.approx(3.0)
    assert figures["experts/dropped"] == pytest.approx(0.25)
    assert [figures[f"experts/load_{i}"] for i in range(4)] == [1.0, 0.0, 0.0, 0.0]
    balance.note(note([2, 2, 2, 2], [5.0, 1.0, 1.0, 1.0]))
    assert float(balance.take_loss()) == pytest.approx(0.5 * 4 * 5.0)
    assert float(balance.take_loss()) == 0.0


def test_what_does_not_count_and_other_ranks_are_seen_in_the_figures() -> None:
    balance = balanced(z_weight=0.25)
    balance.note(note([8, 0, 0, 0], [2.0, 2.0, 2.0, 2.0]))
    assert float(balance.take_loss(counts=False)) == 0.0
    balance.note(note([0, 8, 0, 0], [2.0, 2.0, 2.0, 2.0]))
    assert float(balance.take_loss()) == pytest.approx(0.25 * 8)
    other = torch.tensor([[8.0, 0, 0, 0, 2, 2, 2, 2, 0, 8]] * 2, dtype=torch.double)
    figures = balance.settle(lambda sums: sums + other)
    assert [figures[f"experts/load_{i}"] for i in range(4)] == [0.5, 0.5, 0.0, 0.0]
    assert balance.load.tolist() == [[8, 8, 0, 0]] * 2


def test_a_bias_goes_against_the_load_and_stays_where_a_router_is_frozen() -> None:
    balance = balanced(bias_rate=0.001)
    balance.routers[1].weight.requires_grad_(False)
    balance.note(note([9, 1, 2, 0], [3.0, 3.0, 3.0, 3.0]))
    balance.take_loss()
    balance.settle(lambda sums: sums)
    step = round(0.001 / PART)
    first, second = (router.bias_parts for router in balance.routers)
    assert first is not None
    assert second is not None
    assert first.tolist() == [-step, step, step, step]
    assert second.tolist() == [0] * 4
    assert step * PART == pytest.approx(0.001, rel=1e-3)
    assert balance.state["balance.0.bias"] is first


def test_packed_documents_are_routed_as_they_are_alone_and_padding_is_no_load() -> None:
    network = Coder.build(TINY).train()
    ids = torch.randint(0, TINY.vocabulary, (1, 30), generator=torch.Generator().manual_seed(3))
    assert isinstance(network.balance, ExpertBalance)
    loads = []
    for parts in ([(ids[:, :12], None), (ids[:, 12:], None)], [(torch.nn.functional.pad(ids, (0, 6)), [[12, 18]])]):
        for row, lengths in parts:
            attend = CausalAttend() if lengths is None else PackedAttend(lengths)
            positions = [*range(12), *range(18), *[0] * 6] if lengths else list(range(row.shape[1]))
            network.hidden(row, torch.tensor([positions]), attend)
            network.balance.take_loss()
        network.balance.settle(lambda sums: sums)
        loads.append(network.balance.load.clone())
    assert torch.equal(*loads)
    assert loads[0].sum(1).tolist() == [60, 60]


@pytest.mark.parametrize("choices", [{"bias_rate": 0.001}, {"scoring": "sigmoid", "bias_rate": 0.01, "z_weight": 1e-3}])
def test_a_biased_network_is_published_under_its_own_name_with_its_bias(
    choices: dict[str, Any], tmp_path: Path
) -> None:
    network = filled(Coder.build(TINY.model_copy(update={**choices, "capacity_factor": 1.5})))
    for index, layer in enumerate(network.model.layers):
        layer.mlp.gate.bias_parts += torch.arange(4) * 1000003 * (index + 1)
    publish(network, load("tiny:coder", precision="float32", clean=False).tokenizer, tmp_path)
    opened = open_network(tmp_path, torch.bfloat16)
    assert (opened.family, opened.path) == ("coder", "fast")
    assert opened.network.settings == network.settings
    for ours, theirs in zip(network.model.layers, opened.network.model.layers, strict=True):
        assert theirs.mlp.gate.bias_parts.tolist() == ours.mlp.gate.bias_parts.tolist()
    with pytest.raises(ValueError, match="rung_coder"):
        transformers.AutoConfig.from_pretrained(tmp_path)


def test_without_experts_it_is_a_llama_and_published_as_one(tmp_path: Path) -> None:
    network = filled(Coder.build(TINY.model_copy(update={"num_experts": 0})))
    assert network.balance is None
    publish(network, load("tiny:coder", precision="float32", clean=False).tokenizer, tmp_path)
    opened = open_network(tmp_path, torch.float32)
    assert opened.family == "llama"
    row, positions = torch.arange(20)[None], torch.arange(20)[None]
    with torch.no_grad():
        ours, theirs = (each.eval().hidden(row, positions, CausalAttend()) for each in (network, opened.network))
    torch.testing.assert_close(ours, theirs)


def test_more_active_experts_than_there_are_are_refused() -> None:
    with pytest.raises(SettingsError, match="9 active experts of 8"):
        validate(Coder.Settings, {**Coder.SIZES["8m"].model_dump(), "num_active": 9}, "model")


def grouped(engine: Engine, work: list[Request], size: int) -> dict[str, Completion]:
    return {c.id: c for i in range(0, len(work), size) for c in engine.complete(work[i : i + size])}


def test_what_the_engine_writes_does_not_depend_on_neighbours_to_the_bit() -> None:
    """Experts get other numbers of tokens in every company, and each token the same bits."""
    loaded = load("tiny:coder", precision="float32", clean=False)
    filled(loaded.network)
    texts = ["the first prompt", "x", "another that is much longer than the first one", "then a fourth"] * 6
    sampling = Sampling(temperature=1.0, max_new_tokens=9)
    work = [Request(str(i), sampling, seed=i, text=text) for i, text in enumerate(texts)]
    engine = Engine(loaded, EngineSettings(num_slots=16))
    whole = grouped(engine, work, len(work))
    assert engine.invariance is not None
    assert engine.invariance.exact
    assert grouped(engine, work, 1) == grouped(engine, work, 5) == whole
