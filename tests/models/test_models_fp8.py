"""Products in FP8, simulated and by the machine's own kernel: how wrong they are, which layers they are, and that
nothing of them stays (item 285)."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rung.base.errors import MissingDependency, SettingsError
from rung.models import fp8
from rung.models.families.fallback import Fallback
from rung.models.families.llama import Llama
from rung.models.fp8 import exact, fp8_of, fp8_path, in_fp8
from rung.models.layers.attend import CausalAttend
from rung.models.load import load
from rung.models.network import Network, Shape
from rung.train.adapters import prepare
from rung.train.settings import AdapterSettings

FAMILIES = ["tiny:llama", "tiny:gemma3", "tiny:gpt2", "tiny:coder"]
NUM_TOKENS = 67  # no multiple of 16, as rows are
# share of a rounding in what is rounded, half of the smallest step, the largest number
E4M3, E5M2 = (2.0**-4, 2.0**-10, 448.0), (2.0**-3, 2.0**-17, 57344.0)
SLACK, BFLOAT16 = 1.0 + 1e-5, 2.0**-8


class Tower(Network):
    """Linear layers one after the other."""

    def __init__(self, *weights: Tensor) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(w.shape[1], w.shape[0], bias=False) for w in weights)
        for layer, weight in zip(self.layers, weights, strict=True):
            layer.weight.data = weight.clone()
        self.head = nn.Linear(32, 32)
        self.shape = Shape(32, 32, len(weights), 1, 1, 32, 128)

    def hidden(self, token_ids_BT: Tensor, positions_BT: Tensor, attend: Any) -> Tensor:
        """Not asked for."""
        raise NotImplementedError

    @property
    def output_weight(self) -> Tensor:
        """Of the head."""
        return self.head.weight


def matrices(kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """An input, a weight, and a gradient of their product; "outliers" have columns and rows a hundred times as large,
    which the scale of a whole tensor makes all others small."""
    draw = torch.Generator().manual_seed(0)
    x_TI, weight_OI, gradient_TO = (
        torch.randn(shape, generator=draw) * size
        for shape, size in (((NUM_TOKENS, 256), 1.0), ((128, 256), 0.06), ((NUM_TOKENS, 128), 1e-4))
    )
    if kind == "outliers":
        x_TI[:, 3] *= 100
        x_TI[:, 77] *= 60
        weight_OI[5] *= 30
        gradient_TO[9] *= 200
    return x_TI.bfloat16(), weight_OI, gradient_TO.bfloat16()


def products(kind: str, wish: fp8.Fp8Wish) -> list[Tensor]:
    """The layer's output, and the gradients of its input and its weight."""
    x_TI, weight_OI, gradient_TO = matrices(kind)
    tower = Tower(weight_OI)
    x_TI.requires_grad_()
    with in_fp8(tower, wish) as report:
        assert report is not None
        assert (report.num_layers, report.share) == (1, 1.0)
        out_TO = tower.layers[0](x_TI)
        out_TO.backward(gradient_TO)
    weight = tower.layers[0].weight
    assert isinstance(weight, Tensor)
    assert x_TI.grad is not None
    assert weight.grad is not None
    return [out_TO.detach().double(), x_TI.grad.double(), weight.grad.double()]


def bounded(a: Tensor, b: Tensor, forms: tuple[tuple[float, float, float], ...]) -> tuple[Tensor, Tensor]:
    """The product, and how far it may be away when both are rounded under a scale of their own.

    A number above the smallest normal one is rounded by at most a share of 2^-(mantissa + 1) of itself, one below it by
    half of the smallest step; the step is a share of the tensor's largest entry. |da b| + |a db| + |da db|, summed as
    the product is, bounds the product; a last rounding makes it bfloat16.
    """
    rounding = [
        torch.maximum(share * x.abs(), half_step / largest * x.abs().max())
        for x, (share, half_step, largest) in zip((a, b), forms, strict=True)
    ]
    product = a @ b
    away = rounding[0] @ b.abs() + a.abs() @ rounding[1] + rounding[0] @ rounding[1]
    return product, (away + BFLOAT16 * (product.abs() + away)) * SLACK


@pytest.mark.parametrize(
    ("kind", "most"), [("random", (0.04, 0.062, 0.062)), ("outliers", (0.035, 0.076, 0.06))], ids=["random", "outliers"]
)
def test_a_simulated_product_and_its_gradients_are_within_their_bound(kind: str, most: tuple[float, ...]) -> None:
    x_TI, weight_OI, gradient_TO = (x.double() for x in matrices(kind))
    expected = [
        bounded(x_TI, weight_OI.T, (E4M3, E4M3)),
        bounded(gradient_TO, weight_OI, (E5M2, E4M3)),
        bounded(gradient_TO.T, x_TI, (E5M2, E4M3)),
    ]
    for found, (product, bound), share in zip(products(kind, "simulated"), expected, most, strict=True):
        assert bool(((found - product).abs() <= bound).all())
        wrong = float((found - product).norm() / product.norm())
        assert 0.02 < wrong < share, "more is worse than FP8 is, less is no FP8"


@pytest.mark.parametrize("kind", ["random", "outliers"])
def test_the_kernel_of_this_machine_says_what_is_simulated(monkeypatch, kind: str) -> None:
    """torch multiplies FP8 on a processor too, without any gain: the path of a GPU, rows of odd lengths included."""
    simulated = products(kind, "simulated")
    monkeypatch.setattr(fp8, "_lacking", lambda device: "")
    for found, like in zip(products(kind, "required"), simulated, strict=True):
        torch.testing.assert_close(found, like, rtol=2 * BFLOAT16, atol=1e-3 * float(like.abs().max()))


def hidden(network: Network) -> Tensor:
    """Of some tokens, under autocast."""
    ids = torch.randint(3, 200, (1, 19), generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        return network.hidden(ids, torch.arange(19)[None], CausalAttend())


def opened(source: str) -> Network:
    network: Network = load(source, precision="float32", clean=False, strict=False).network
    return network


@pytest.mark.parametrize("source", FAMILIES)
def test_layers_compute_in_fp8_and_afterwards_all_is_as_it_was(source: str) -> None:
    network = opened(source).requires_grad_(True)
    modules, parameters = dict(network.named_modules()), dict(network.named_parameters())
    before = hidden(network)
    with in_fp8(network, "simulated") as report:
        assert report is not None
        assert report == fp8_of(network)
        assert report.path == "simulated"
        assert report.num_layers > 3
        narrow = hidden(network)
        assert {name: id(p) for name, p in network.named_parameters()} == {n: id(p) for n, p in parameters.items()}
        with in_fp8(network, "simulated") as again:
            assert again == report
            assert torch.equal(hidden(network), narrow), "entered twice it is on once"
        with exact(network):
            assert torch.equal(hidden(network), before)
        assert torch.equal(hidden(network), narrow)
        narrow.float().sum().backward()
        network.eval()
    assert 0 < float((narrow - before).detach().norm() / before.detach().norm()) < 0.2
    assert all(p.grad is not None for name, p in parameters.items() if "layers" in name and "proj" in name)
    assert dict(network.named_modules()) == modules
    assert not any(module.training for module in modules.values())
    assert torch.equal(hidden(network), before)
    assert fp8_of(network) is None


def names_in_fp8(network: Network) -> set[str]:
    with in_fp8(network, "simulated") as report:
        found = {name for name, m in network.named_modules() if type(m).__name__ == "Float8Linear"}
        assert report is not None
        assert len(found) == report.num_layers
    return found


def test_which_layers_they_are() -> None:
    plain = opened("tiny:llama")
    every = names_in_fp8(plain)
    assert len(every) == 7 * len(plain.model.layers)  # type: ignore[arg-type, union-attr]
    assert not any("head" in name or "embed" in name for name in every)
    sparse = names_in_fp8(opened("tiny:coder"))
    assert sparse
    assert all(name.rpartition(".")[2] in ("q_proj", "k_proj", "v_proj", "o_proj") for name in sparse)
    untied = Llama.build(Llama.SIZES["tiny"].model_copy(update={"tied_head": False}))
    assert names_in_fp8(untied) == every
    # 344 is no multiple of 16
    odd = Llama.build(Llama.SIZES["3m"].model_copy(update={"vocabulary": 300, "num_layers": 2}))
    with in_fp8(odd, "simulated") as report:
        assert report is not None
        assert report.num_layers == 8
        assert report.share == pytest.approx(4 * 128 * 128 / (4 * 128 * 128 + 3 * 128 * 344))


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_below_an_adapter_the_base_is_in_fp8_and_the_adapter_is_not(kind: str) -> None:
    network = opened("tiny:llama")
    every = names_in_fp8(network)
    prepare(network, AdapterSettings(kind=kind, rank=16), seed=0)  # type: ignore[arg-type]
    assert names_in_fp8(network) == {f"{name}.base_layer" for name in every}
    before = hidden(network)
    with in_fp8(network, "simulated"):
        narrow = hidden(network)
        narrow.float().sum().backward()
    assert not torch.equal(narrow, before)
    assert all(p.grad is not None for name, p in network.named_parameters() if "lora_B" in name)
    assert all(p.grad is None for name, p in network.named_parameters() if "base_layer" in name)


def test_a_wrapped_model_is_laid_out_the_same_way() -> None:
    config = {
        "model_type": "qwen3", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16,
    }  # fmt: skip
    network = Fallback.build(Fallback.Settings(config=config))
    assert len(names_in_fp8(network)) == 14
    ids = torch.arange(9)[None]
    before = network.hidden(ids, ids, CausalAttend())
    with in_fp8(network, "simulated"):
        assert not torch.equal(network.hidden(ids, ids, CausalAttend()), before)
    assert torch.equal(network.hidden(ids, ids, CausalAttend()), before)


def test_an_error_inside_leaves_nothing() -> None:
    network = opened("tiny:llama")
    modules = dict(network.named_modules())
    with pytest.raises(RuntimeError, match="meanwhile"), in_fp8(network, "simulated"):
        raise RuntimeError("meanwhile")
    assert dict(network.named_modules()) == modules
    assert fp8_of(network) is None


def test_required_refuses_a_device_without_it_and_if_usable_says_so(monkeypatch) -> None:
    network = opened("tiny:llama")
    with pytest.raises(SettingsError, match="no products in FP8 here") as met, in_fp8(network, "required"):
        pass
    assert met.value.place == "training.fp8"
    assert "if_usable" in met.value.hint
    before = hidden(network)
    with in_fp8(network, "if_usable") as report:
        assert report is not None
        assert (report.path, report.num_layers) == ("bfloat16", 0)
        assert "NVIDIA" in report.degraded
        assert torch.equal(hidden(network), before)
    gpu = torch.device("cuda")
    for capability, path in (((8, 6), "bfloat16"), ((8, 9), "fp8"), ((9, 0), "fp8"), ((12, 0), "fp8")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        found, degraded = fp8_path("if_usable", gpu)
        assert found == path
        assert ("8.6 is less than 8.9" in degraded) is (path == "bfloat16")
    assert fp8_path("no", gpu) == ("bfloat16", "")


def test_without_torchao_it_is_asked_for_or_the_fall_back_said(monkeypatch) -> None:
    network = opened("tiny:llama")
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    monkeypatch.setattr(fp8, "_lacking", lambda device: "")
    for wish in ("simulated", "required"):
        with pytest.raises(MissingDependency, match="needs torchao") as met, in_fp8(network, wish):  # type: ignore[arg-type]
            pass
        assert "rung[fp8]" in met.value.hint
    with in_fp8(network, "if_usable") as report:
        assert report is not None
        assert "torchao" in report.degraded


def test_a_network_that_it_does_not_fit_is_told(monkeypatch) -> None:
    tower = Tower(torch.randn(24, 32))
    with pytest.raises(SettingsError, match="no layer that FP8 fits"), in_fp8(tower, "simulated"):
        pass
    monkeypatch.setattr(fp8, "_lacking", lambda device: "")
    with in_fp8(tower, "if_usable") as report:
        assert report is not None
        assert "multiples of 16" in report.degraded
        assert report.path == "bfloat16"


@pytest.mark.gpu
def test_the_gpus_own_products_are_what_is_simulated() -> None:
    if not torch.cuda.is_available() or fp8._lacking(torch.device("cuda")):
        pytest.skip("needs a GPU with products in FP8 (compute capability 8.9)")
    for kind in ("random", "outliers"):
        x_TI, weight_OI, gradient_TO = (x.cuda() for x in matrices(kind))
        found = []
        for wish in ("simulated", "required"):
            tower, x = Tower(weight_OI).cuda(), x_TI.clone().requires_grad_()
            with in_fp8(tower, wish) as report, torch.autocast("cuda", torch.bfloat16):  # type: ignore[arg-type]
                assert report is not None
                assert report.path == {"simulated": "simulated", "required": "fp8"}[wish]
                out_TO = tower.layers[0](x)
            out_TO.backward(gradient_TO)
            found.append([out_TO.detach(), x.grad, tower.layers[0].weight.grad])
        for simulated, real in zip(*found, strict=True):
            assert float((simulated - real).norm() / simulated.norm()) < 0.01
