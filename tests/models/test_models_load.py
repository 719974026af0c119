"""Loading: every kind of source, what is cached, and every way it can fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy
import peft
import pytest
import safetensors.torch
import torch
import transformers
from tokenizers import processors

from rung.base.errors import MissingDependency, ModelError, RungError, SettingsError
from rung.base.fingerprint import content_hash, hash_file
from rung.models.families.fallback import Fallback
from rung.models.families.llama import Llama
from rung.models.layers.attend import CausalAttend, PackedAttend
from rung.models.load import Loaded, load
from rung.models.network import Network


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("RUNG_CACHE", str(folder))
    return folder


def opened(source: str, **settings: Any) -> Loaded:
    return load(source, precision="float32", clean=False, **settings)


def logits(network: Network, ids: list[int]) -> torch.Tensor:
    hidden = network.hidden(torch.tensor([ids]), torch.arange(len(ids))[None], CausalAttend())
    return hidden[0] @ network.output_weight.T


def save(folder: Path, source: str = "tiny:llama", **beside: Any) -> Path:
    """A folder in the published layout."""
    made: Any = opened(source)
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(made.network.state_dict(), folder / "model.safetensors")
    config = made.network.published_config() | {"eos_token_id": made.tokenizer.end_ids[0]}
    (folder / "config.json").write_text(json.dumps(config))
    made.tokenizer.inner.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(beside))
    return folder


def test_tiny_models_are_the_same_everywhere_and_use_their_whole_vocabulary() -> None:
    one, two, other = opened("tiny:llama"), opened("tiny:llama"), opened("tiny:llama?seed=1&vocabulary=400")
    assert one.content_id == two.content_id != other.content_id
    torch.testing.assert_close(logits(one.network, [1, 2, 3]), logits(two.network, [1, 2, 3]), rtol=0, atol=0)
    for each in (one, other, opened("tiny:gemma3")):
        assert each.network.shape.vocabulary == each.tokenizer.vocabulary_size
        text = "The café costs 3 €.\n\tYes"
        assert each.tokenizer.decode(each.tokenizer.encode(text)) == text
        assert not each.network.training
        assert not any(p.requires_grad for p in each.network.parameters())
        assert (each.path, each.report.verdict, each.clean) == ("fast", "unchecked", False)
    assert opened("tiny:gemma3").tokenizer.start_ids != ()
    assert len(other.tokenizer.encode("the letters")) < len("the letters")


def test_a_folder_loses_its_template_its_added_tokens_its_truncation(tmp_path: Path) -> None:
    folder = save(tmp_path / "m", chat_template="{{ '<|im_start|>' }}")
    inner = opened("tiny:llama").tokenizer.inner
    start = inner.token_to_id("<bos>")
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", start)])
    inner.enable_truncation(4)
    inner.enable_padding(length=9)
    inner.save(str(folder / "tokenizer.json"))
    found = opened(f"dir:{folder}")
    assert found.report.template_disabled
    assert len(found.report.removed) == 4
    assert found.tokenizer.start_ids == (start,)
    assert found.tokenizer.inner.encode("plain text").ids == found.tokenizer.encode("plain text")
    assert len(found.tokenizer.encode("a text that is longer than four")) > 9
    assert found.tokenizer.template_ids == opened("tiny:llama").tokenizer.template_ids
    assert found.tokenizer.end_ids == (2,)
    torch.testing.assert_close(logits(found.network, [5, 6]), logits(opened("tiny:llama").network, [5, 6]))
    assert opened(f"hf:{folder}").content_id == found.content_id


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "m")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    moved = weights.pop("model.norm.weight")
    safetensors.torch.save_file(weights | {"extra.weight": moved}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"missing: model\.norm\.weight; unexpected: extra\.weight"):
        opened(f"dir:{folder}")
    safetensors.torch.save_file(weights | {"model.norm.weight": torch.ones(5)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"reshaped: model\.norm\.weight \[5\] instead of \[32\]"):
        opened(f"dir:{folder}")


def test_broken_folders_are_told_apart(tmp_path: Path) -> None:
    def fails(source: str, match: str, kind: type[RungError] = ModelError) -> None:
        with pytest.raises(kind, match=match) as caught:
            opened(source)
        assert caught.value.hint

    fails(f"dir:{tmp_path / 'nowhere'}", "no such folder")
    folder = save(tmp_path / "m")
    tokenizer = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").unlink()
    fails(f"dir:{folder}", r"no tokenizer\.json")
    (folder / "tokenizer.json").write_text(tokenizer)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "no_such_thing"}))
    fails(f"dir:{folder}", "transformers cannot load it")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:100])
    fails(f"dir:{folder}", "cannot be read")
    (folder / "model.safetensors").unlink()
    fails(f"dir:{folder}", "no safetensors")
    fails("package:no-such-package-anywhere", "not installed", MissingDependency)
    fails("somewhere", "kind of source", SettingsError)
    fails("ftp:x", "no models.sources part", SettingsError)


def test_without_a_network_the_hub_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: Any, **keywords: Any) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_network)
    with pytest.raises(ModelError, match=r"hf:org/name@v2.*cannot be reached"):
        opened("hf:org/name@v2")


def write_gguf(path: Path, network: Llama) -> None:
    """What llama.cpp's converter writes: interleaved query and key rows, its own names."""
    s = network.settings
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_embedding_length(s.width)
    writer.add_block_count(s.num_layers)
    writer.add_feed_forward_length(s.inner_width)
    writer.add_head_count(s.num_heads)
    writer.add_head_count_kv(s.num_kv_heads)
    writer.add_context_length(s.max_context)
    writer.add_layer_norm_rms_eps(s.norm_epsilon)
    inner = opened("tiny:llama").tokenizer.inner
    model = json.loads(inner.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(sorted(model["vocab"], key=model["vocab"].get))
    writer.add_token_types([3] * 5 + [1] * (s.vocabulary - 5))
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_eos_token_id(2)
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
    names |= {"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"}
    names |= {"mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    for name, tensor in network.state_dict().items():
        values = tensor.numpy()
        if "q_proj" in name or "k_proj" in name:
            num_heads = s.num_heads if "q_proj" in name else s.num_kv_heads
            halves = values.reshape(num_heads, 2, s.head_width // 2, s.width)
            values = numpy.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
        theirs = name.replace("model.layers.", "blk.").replace("model.embed_tokens", "token_embd")
        for ours, short in names.items():
            theirs = theirs.replace(ours, short)
        writer.add_tensor(theirs.replace("model.norm", "output_norm"), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_gives_the_logits_of_the_network_it_was_made_from(tmp_path: Path, cache: Path) -> None:
    network = opened("tiny:llama").network
    assert isinstance(network, Llama)
    path = tmp_path / "model.gguf"
    write_gguf(path, network)
    found = opened(f"gguf:{path}")
    torch.testing.assert_close(logits(found.network, [9, 8, 7]), logits(network, [9, 8, 7]), atol=1e-5, rtol=0)
    text = "In 1984 the letters\n\n12"
    assert found.tokenizer.decode(found.tokenizer.encode(text)) == text
    (kept,) = (cache / "models").iterdir()
    written = (kept / "model.safetensors").stat().st_mtime_ns
    assert opened(f"gguf:{path}").content_id == found.content_id == hash_file(path)
    assert (kept / "model.safetensors").stat().st_mtime_ns == written


def test_a_gguf_file_cut_short_leaves_nothing_behind(tmp_path: Path, cache: Path) -> None:
    network = opened("tiny:llama").network
    assert isinstance(network, Llama)
    path = tmp_path / "model.gguf"
    write_gguf(path, network)
    whole = path.read_bytes()
    for share in (0.02, 0.5, 0.98):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ModelError, match="damaged or cut short"):
            opened(f"gguf:{path}")
    path.write_bytes(b"not a model")
    with pytest.raises(ModelError, match="not a GGUF file"):
        opened(f"gguf:{path}")
    assert list((cache / "models").glob("*")) == []


def fallback_folder(tmp_path: Path) -> Path:
    folder = save(tmp_path / "neox")
    config = transformers.GPTNeoXConfig(
        vocab_size=320, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    transformers.GPTNeoXForCausalLM(config).save_pretrained(folder)
    return folder


def test_other_architectures_run_through_the_fallback(tmp_path: Path) -> None:
    folder = fallback_folder(tmp_path)
    found = opened(f"dir:{folder}")
    assert (found.path, found.family) == ("fallback", "fallback")
    assert any("gpt_neox" in note for note in found.report.degraded)
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    one, two = list(range(5, 12)), list(range(50, 54))
    expected = [reference(torch.tensor([ids])).logits[0] for ids in (one, two)]
    torch.testing.assert_close(logits(found.network, one), expected[0], atol=1e-4, rtol=0)
    positions = torch.tensor([[*range(7), *range(4), 0]])
    packed = found.network.hidden(torch.tensor([[*one, *two, 0]]), positions, PackedAttend([[7, 4]]))
    assert (packed[0, 11] == 0).all()
    both = packed[0, :11] @ found.network.output_weight.T
    torch.testing.assert_close(both, torch.cat(expected), atol=1e-4, rtol=0)
    network = found.network
    assert isinstance(network, Fallback)
    first, cache = network.step(torch.tensor([one[:4]]))
    rest, _ = network.step(torch.tensor([one[4:]]), cache)
    stepped = torch.cat([first, rest], 1)[0] @ network.output_weight.T
    torch.testing.assert_close(stepped, expected[0], atol=1e-4, rtol=0)
    with pytest.raises(ModelError, match=r"step\(\)"):
        network.hidden(torch.tensor([one]), torch.arange(7)[None], lambda *a, **k: a[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["llama", "gemma3", "fallback"])
def test_adapters_can_be_put_on_and_carry_published_names(kind: str, tmp_path: Path) -> None:
    source = f"dir:{fallback_folder(tmp_path)}" if kind == "fallback" else f"tiny:{kind}"
    network = opened(source).network
    targets = ["query_key_value"] if kind == "fallback" else ["q_proj", "down_proj"]
    adapted = peft.get_peft_model(network, peft.LoraConfig(r=2, target_modules=targets))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    before = logits(opened(source).network, [4, 5])
    assert not torch.allclose(logits(network, [4, 5]), before, atol=1e-3)
    names = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert names
    assert all("lora" in name for name in names)
    if kind != "fallback":
        assert any("base_model.model.model.layers.0.self_attn.q_proj.lora_A" in name for name in names)


def finished_stage(folder: Path, files: dict[str, str], source: str) -> None:
    """A manifest as the runner writes it, over files that are there."""
    code = {"commit": "c", "branch": "b", "dirty": False, "source_hash": "s"}
    values = {
        "run": "r", "name": folder.name, "stage": "sft", "stage_version": 1, "identity": "{}",
        "fingerprint": content_hash(b"{}"), "settings": {}, "code": code, "model": {"source": source},
        "files": [{"name": n, "sha256": hash_file(folder / n), "role": role} for n, role in files.items()],
        "started": "t", "ended": "t", "outcome": "done", "schema_version": 1,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(values))


def test_a_finished_stage_loads_with_its_adapter_and_on_another_stage(tmp_path: Path) -> None:
    base = opened("tiny:llama")
    expected = {}
    for name, source, value in (("sft", "tiny:llama", 0.3), ("dpo", "run:../sft", -0.2)):
        folder = tmp_path / name
        network = opened("tiny:llama" if name == "sft" else f"run:{tmp_path / 'sft'}").network
        adapted = peft.get_peft_model(network, peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
        with torch.no_grad():
            for parameter_name, parameter in adapted.named_parameters():
                if "lora_B" in parameter_name:
                    parameter.fill_(value)
        expected[name] = logits(network, [4, 5, 6]).detach()
        adapted.save_pretrained(folder)
        config = json.loads((folder / "adapter_config.json").read_text())
        # what training writes: peft would wrap for this task, and ask for transformers' methods
        (folder / "adapter_config.json").write_text(json.dumps({**config, "task_type": "CAUSAL_LM"}))
        finished_stage(folder, {"adapter_model.safetensors": "adapter", "adapter_config.json": "summary"}, source)
    assert not torch.allclose(expected["sft"], logits(base.network, [4, 5, 6]), atol=1e-3)
    for name, wanted in expected.items():
        found = opened(f"run:{tmp_path / name}")
        torch.testing.assert_close(logits(found.network, [4, 5, 6]), wanted, atol=1e-5, rtol=0)
        assert not any("lora" in parameter for parameter, _ in found.network.named_parameters())
        assert found.content_id != base.content_id
        assert found.report.verdict == "unchecked"


def test_a_stage_whose_files_changed_or_that_trained_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"x")
    finished_stage(tmp_path, {"weights.safetensors": "weights"}, "tiny:llama")
    (tmp_path / "weights.safetensors").write_bytes(b"y")
    with pytest.raises(RungError, match="missing or changed"):
        opened(f"run:{tmp_path}")
    finished_stage(tmp_path, {}, "tiny:llama")
    with pytest.raises(ModelError, match="no adapter and no weights"):
        opened(f"run:{tmp_path}")
    finished_stage(tmp_path, {"weights.safetensors": "weights"}, "")
    with pytest.raises(ModelError, match=r"model\.source"):
        opened(f"run:{tmp_path}")


def test_the_precision_is_measured_once_and_the_faster_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def speed(dtype: torch.dtype, device: str, size: int = 0) -> float:
        measured.append(dtype)
        return 100.0 if dtype == torch.float32 else fast

    monkeypatch.setattr("rung.models.precision._gflops", speed)
    fast = 12.5
    found = load("tiny:llama")
    assert (found.precision, len(measured)) == ("float32", 2)
    assert "100 GFLOP/s in float32 and 12 in bfloat16" in found.report.precision_reason
    load("tiny:llama")
    assert len(measured) == 2
    monkeypatch.setattr("rung.models.precision._machine", lambda device: "another machine")
    fast = 300.0
    narrow = load("tiny:llama")
    assert narrow.precision == "bfloat16"
    assert narrow.network.output_weight.dtype == torch.bfloat16
