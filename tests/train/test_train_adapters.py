"""Adapters: peft's own format both ways, a frozen base, merged = adapted, switched off = base."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

from rung.base.errors import MissingDependency, ModelError
from rung.models.families.llama import Llama
from rung.models.layers.attend import CausalAttend
from rung.models.load import replace_weights
from rung.train import adapters
from rung.train.adapters import attach_adapter, base_hash, merge, prepare, save_adapter, switch_off
from rung.train.settings import AdapterSettings

IDS = torch.arange(24).reshape(2, 12)


def tiny() -> Llama:
    return Llama.build(Llama.SIZES["tiny"], seed=3)


def logits(network: Llama) -> torch.Tensor:
    positions = torch.arange(IDS.shape[1]).expand_as(IDS)
    return network.hidden(IDS, positions, CausalAttend()) @ network.output_weight.T


def trained(settings: AdapterSettings | None = None) -> Llama:
    """A network whose adapter was moved away from zero by gradients."""
    network = tiny()
    prepare(network, settings or AdapterSettings(rank=4, alpha=8), seed=1)
    optimizer = torch.optim.SGD(adapters.trainable(network).values(), lr=30.0)
    for _ in range(3):
        torch.nn.functional.cross_entropy(logits(network)[:, :-1].flatten(0, 1), IDS[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return network.eval()


def test_a_fresh_adapter_changes_nothing_and_trains_only_itself() -> None:
    network, before = tiny(), logits(tiny()).detach()
    report = prepare(network, AdapterSettings(rank=4), seed=1)
    torch.testing.assert_close(logits(network).detach(), before)
    shapes = [p.shape for p in tiny().parameters()]
    linear = [s for n, p in tiny().named_parameters() if "_proj" in n for s in [p.shape]]
    assert report.num_trainable == sum(4 * (a + b) for a, b in linear)
    assert report.num_total == sum(s.numel() for s in shapes) + report.num_trainable
    assert report.path == "lora"
    assert all(".lora_" in name for name in adapters.trainable(network))


def test_the_base_is_the_same_before_and_after_training() -> None:
    plain = tiny()
    network = trained()
    assert base_hash(network) == base_hash(plain)
    assert not torch.allclose(logits(network), logits(plain), atol=1e-2)
    with torch.no_grad():
        network.model.norm.weight[0] += 1e-6
    assert base_hash(network) != base_hash(plain)


def test_the_fused_path_has_pefts_values_and_gradients(monkeypatch) -> None:
    network = trained()
    results = []
    for fused in (True, False):
        if not fused:
            monkeypatch.setattr(adapters._FusedLinear, "forward", adapters.PeftLinear.forward)
        network.zero_grad()
        logits(network).square().mean().backward()
        results.append({n: p.grad.clone() for n, p in adapters.trainable(network).items()})
    assert results[0].keys() == results[1].keys()
    for name, gradient in results[0].items():
        torch.testing.assert_close(gradient, results[1][name], atol=1e-6, rtol=1e-4)


def test_dropout_acts_only_in_training() -> None:
    network = trained(AdapterSettings(rank=4, alpha=8, dropout=0.5))
    assert torch.equal(logits(network), logits(network))
    network.train()
    assert not torch.equal(logits(network), logits(network))


def test_transformers_loads_what_rung_saved(tmp_path) -> None:
    network = trained()
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**tiny().published_config()))
    missing = theirs.load_state_dict(tiny().state_dict(), strict=False)
    assert missing.missing_keys in ([], ["lm_head.weight"])
    theirs.tie_weights()
    save_adapter(network, tmp_path)
    model = peft.PeftModel.from_pretrained(theirs.eval(), str(tmp_path))
    torch.testing.assert_close(model(IDS).logits, logits(network), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(model(IDS).logits, logits(tiny()), atol=1e-2)


def test_rung_loads_what_peft_saved(tmp_path) -> None:
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**tiny().published_config()))
    theirs.load_state_dict(tiny().state_dict(), strict=False)
    theirs.tie_weights()
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    model = peft.get_peft_model(theirs, config).eval()
    with torch.no_grad():  # peft's own random start is so large that rounding alone would differ by more than 1e-4
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.mul_(0.3)
    model.save_pretrained(str(tmp_path))
    network = tiny()
    attach_adapter(network, tmp_path)
    torch.testing.assert_close(logits(network), model(IDS).logits, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(logits(network), logits(tiny()), atol=1e-2)


def test_saved_and_attached_again_it_is_the_same_to_the_byte(tmp_path) -> None:
    network = trained()
    save_adapter(network, tmp_path / "a")
    other = tiny()
    attach_adapter(other, tmp_path / "a")
    assert torch.equal(logits(other), logits(network))
    save_adapter(other, tmp_path / "b")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert not adapters.trainable(other)


def test_merged_equals_adapted_and_the_network_is_plain_again(tmp_path) -> None:
    network = trained()
    adapted = logits(network).detach()
    merge(network)
    torch.testing.assert_close(logits(network).detach(), adapted, atol=1e-4, rtol=1e-4)
    assert dict(network.named_parameters()).keys() == dict(tiny().named_parameters()).keys()
    prepare(network, AdapterSettings(rank=2), seed=0)


def test_switched_off_is_the_base_and_comes_back_after_an_error() -> None:
    network = trained()
    adapted = logits(network).detach()

    def fail_inside() -> None:
        with switch_off(network):
            assert torch.equal(logits(network), logits(tiny()))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert torch.equal(logits(network), adapted)
    with switch_off(plain := tiny()):
        assert torch.equal(logits(plain), logits(tiny()))


DORA = AdapterSettings(kind="dora", rank=4, alpha=8)


def test_dora_trains_a_length_per_output_beside_the_two_matrices() -> None:
    network, before = tiny(), logits(tiny()).detach()
    report = prepare(network, DORA, seed=1)
    torch.testing.assert_close(logits(network).detach(), before, atol=1e-5, rtol=1e-5)
    shapes = [p.shape for n, p in tiny().named_parameters() if "_proj" in n]
    assert report.path == "dora"
    assert report.num_trainable == sum(4 * (out + into) + out for out, into in shapes)
    assert base_hash(trained(DORA)) == base_hash(tiny())


def test_dora_saved_attached_and_merged_is_the_adapted_model(tmp_path) -> None:
    network = trained(DORA)
    adapted = logits(network).detach()
    assert not torch.allclose(adapted, logits(trained(AdapterSettings(rank=4, alpha=8))), atol=1e-3)
    save_adapter(network, tmp_path)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**tiny().published_config()))
    theirs.load_state_dict(tiny().state_dict(), strict=False)
    theirs.tie_weights()
    found = peft.PeftModel.from_pretrained(theirs.eval(), str(tmp_path))
    torch.testing.assert_close(found(IDS).logits, adapted, atol=1e-4, rtol=1e-4)
    other = tiny()
    attach_adapter(other, tmp_path)
    torch.testing.assert_close(logits(other), adapted)
    merge(network)
    torch.testing.assert_close(logits(network), adapted, atol=1e-4, rtol=1e-4)
    assert network.state_dict().keys() == tiny().state_dict().keys()


def test_weights_that_are_all_trained_are_held_in_float32_and_saved_whole(tmp_path) -> None:
    network = tiny().to(torch.bfloat16)
    prepare(network, AdapterSettings(kind="none"), seed=1)
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    with torch.no_grad():
        network.model.norm.weight[0] += 1e-4
    adapters.save_weights(network, tmp_path / adapters.WHOLE_WEIGHTS)
    other = tiny()
    replace_weights(other, tmp_path / adapters.WHOLE_WEIGHTS)
    assert torch.equal(logits(other), logits(network))
    with pytest.raises(ModelError, match="do not fit"):
        replace_weights(torch.nn.Linear(2, 2), tmp_path / adapters.WHOLE_WEIGHTS)


def test_full_fine_tuning_trains_every_weight() -> None:
    network = tiny()
    report = prepare(network, AdapterSettings(kind="none"), seed=0)
    assert report.path == "full"
    assert report.num_trainable == report.num_total == sum(p.numel() for p in network.parameters())


def test_what_does_not_fit_is_refused(tmp_path) -> None:
    with pytest.raises(ModelError, match="no projection called 'wide_proj'"):
        prepare(tiny(), AdapterSettings(targets=("wide_proj",)), seed=0)
    network = trained()
    with pytest.raises(ModelError, match="already has an adapter"):
        prepare(network, AdapterSettings(), seed=0)
    with pytest.raises(ModelError, match="no adapter"):
        merge(tiny())
    save_adapter(network, tmp_path)
    with pytest.raises(ModelError, match="cannot read an adapter"):
        attach_adapter(tiny(), tmp_path / "nowhere")
    wider = Llama.build(Llama.SIZES["tiny"].model_copy(update={"inner_width": 96}))
    with pytest.raises(ModelError, match="does not fit"):
        attach_adapter(wider, tmp_path)
    assert not hasattr(wider, "peft_config"), "a refused adapter leaves nothing behind"
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    with pytest.raises(ModelError, match="IA3"):
        attach_adapter(tiny(), tmp_path)


def test_no_path_of_this_machine_is_written(tmp_path) -> None:
    save_adapter(trained(), tmp_path)
    text = (tmp_path / "adapter_config.json").read_text()
    assert json.loads(text)["base_model_name_or_path"] is None
    assert str(tmp_path) not in text
    assert all(
        k.startswith("base_model.model.model.layers.") for k in load_file(tmp_path / "adapter_model.safetensors")
    )


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_without_bitsandbytes_a_4_bit_base_is_refused_or_recorded() -> None:
    with pytest.raises(MissingDependency, match="bitsandbytes"):
        prepare(tiny(), AdapterSettings(quantise="required"), seed=0)
    report = prepare(tiny(), AdapterSettings(quantise="if_usable"), seed=0)
    assert report.path == "lora"
    assert "bitsandbytes is not installed" in report.degraded
    assert replace(report, degraded="") == prepare(tiny(), AdapterSettings(), seed=0)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs the extra 'quantised'")
def test_a_4_bit_base_trains_its_adapter_alone() -> None:
    network = Llama.build(Llama.SIZES["tiny"].model_copy(update={"width": 64, "inner_width": 128, "head_width": 16}))
    report = prepare(network, AdapterSettings(rank=4, quantise="required"), seed=0)
    before = base_hash(network)
    optimizer = torch.optim.SGD(adapters.trainable(network).values(), lr=1.0)
    logits(network).square().mean().backward()
    optimizer.step()
    assert report.path == "qlora"
    assert base_hash(network) == before
    with pytest.raises(ModelError, match="4-bit"):
        merge(network)
