"""Every architecture: its presets, the reference library both ways through files, the cache, packing, learning."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from rung.base.lookup import known, lookup
from rung.engine.engine import Engine
from rung.models.layers.attend import CausalAttend, PackedAttend
from rung.models.load import Loaded, load
from rung.models.network import Network
from rung.models.publish import publish
from rung.models.published import open_network, read_config
from rung.records.chat.frame import Rendered
from rung.records.contracts import Request, Sampling
from rung.records.packing import Example, pack
from rung.train.objectives.cross_entropy import CrossEntropy
from rung.train.optim.adamw import AdamW
from rung.train.step import evaluate, train_step

FAMILIES = [name for name in known("models.families") if name != "fallback"]


@pytest.fixture(params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def stirred(name: str) -> Loaded:
    """The tiny size with weights large enough that every part of it matters."""
    loaded = load(f"tiny:{name}", precision="float32", clean=False)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in loaded.network.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return loaded


@torch.no_grad()
def logits(network: Network, token_ids_BT: torch.Tensor, attend: Any = None) -> torch.Tensor:
    positions_BT = torch.arange(token_ids_BT.shape[1]).expand_as(token_ids_BT)
    out = network.hidden(token_ids_BT, positions_BT, attend or CausalAttend()) @ network.output_weight.T
    return network.softcap * torch.tanh(out / network.softcap) if network.softcap else out


def some_ids(network: Network, num_rows: int = 2, num_tokens: int = 40) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randint(0, network.shape.vocabulary, (num_rows, num_tokens), generator=draw)


def test_it_says_what_it_is_and_tiny_comes_first(name: str) -> None:
    family = lookup("models.families", name)
    text = inspect.getmodule(family).__doc__ or ""
    assert "Loads" in text
    assert "Not:" in text
    assert next(iter(family.SIZES)) == "tiny"
    assert family.model_types
    assert all(field.description for field in family.Settings.model_fields.values())


def test_every_size_builds_with_the_shape_that_it_says(name: str) -> None:
    family = lookup("models.families", name)
    for settings in family.SIZES.values():
        with torch.device("meta"):
            network = family(settings)
        shape = network.shape
        assert (shape.vocabulary, shape.width) == tuple(network.output_weight.shape)
        assert shape.max_context == settings.max_context
        assert shape.num_heads % shape.num_kv_heads == 0
        assert not network.refuses(network.published_config())


def test_the_reference_loads_what_is_published_and_says_the_same(name: str, tmp_path: Path) -> None:
    loaded = stirred(name)
    publish(loaded.network, loaded.tokenizer, tmp_path)
    model, told = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert not told["mismatched_keys"]
    token_ids = some_ids(loaded.network)
    with torch.no_grad():
        expected = model.eval()(token_ids).logits
    torch.testing.assert_close(logits(loaded.network, token_ids), expected, atol=1e-4, rtol=0)
    assert expected.std() > 0.5
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs("the letters", add_special_tokens=False)["input_ids"] == loaded.tokenizer.encode("the letters")


def test_what_the_reference_saves_is_opened_by_the_family_again(name: str, tmp_path: Path) -> None:
    loaded = stirred(name)
    publish(loaded.network, loaded.tokenizer, tmp_path / "ours")
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    opened = open_network(tmp_path / "theirs", torch.float32)
    assert (opened.family, opened.path, opened.notes) == (name, "fast", ())
    assert opened.network.settings == loaded.network.settings
    state = opened.network.state_dict()
    assert state.keys() == loaded.network.state_dict().keys()
    assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.network.state_dict().items())


def test_what_is_published_loads_back_with_its_tokenizer(name: str, tmp_path: Path) -> None:
    loaded = stirred(name)
    publish(loaded.network, loaded.tokenizer, tmp_path)
    again = load(f"dir:{tmp_path}", precision="float32", clean=False)
    assert again.family == name
    token_ids = some_ids(loaded.network)
    torch.testing.assert_close(logits(again.network, token_ids), logits(loaded.network, token_ids), atol=0, rtol=0)
    for field in ("start_ids", "end_ids", "pad_id", "template_ids"):
        assert getattr(again.tokenizer, field) == getattr(loaded.tokenizer, field)
    assert read_config(tmp_path)["dtype"] == "float32"


def test_no_token_sees_what_comes_after_it(name: str) -> None:
    network = stirred(name).network
    token_ids = some_ids(network, 1, 24)
    changed = token_ids.clone()
    changed[0, 11] = (changed[0, 11] + 1) % network.shape.vocabulary
    difference = (logits(network, token_ids) - logits(network, changed)).abs().amax(-1)[0]
    assert difference[:11].max() < 1e-5
    assert difference[11:].max() > 1e-2


def test_packed_documents_and_padded_rows_get_the_logits_they_get_alone(name: str) -> None:
    network = stirred(name).network
    first, second = some_ids(network, 1, 20), some_ids(network, 2, 13)[1:]
    alone = torch.cat([logits(network, first), logits(network, second)], dim=1)
    row = torch.cat([first, second, torch.zeros(1, 3, dtype=torch.long)], dim=1)
    positions = torch.cat([torch.arange(20), torch.arange(13), torch.zeros(3, dtype=torch.long)])[None]
    with torch.no_grad():
        packed = network.hidden(row, positions, PackedAttend([[20, 13]]))[:, :33] @ network.output_weight.T
        shifted = torch.cat([torch.zeros(1, 3, dtype=torch.long), second], dim=1)
        padded = network.hidden(shifted, (torch.arange(16) - 3).clamp(min=0)[None], CausalAttend([3]))[:, 3:]
    torch.testing.assert_close(packed, alone, atol=1e-4, rtol=0)
    torch.testing.assert_close(padded @ network.output_weight.T, alone[:, 20:], atol=1e-4, rtol=0)


def test_cached_decoding_equals_the_full_forward(name: str) -> None:
    loaded = stirred(name)
    texts = ["the first prompt", "a second one, somewhat longer than the first", "x"]
    sampling = Sampling(temperature=0.0, max_new_tokens=24)
    for text, done in zip(
        texts, Engine(loaded).complete([Request(text, sampling, text=text) for text in texts]), strict=True
    ):
        ids = loaded.tokenizer.document(text)
        spread = logits(loaded.network, torch.tensor([[*ids, *done.token_ids]]))[0, len(ids) - 1 : -1].log_softmax(-1)
        assert len(done.token_ids) > 1
        assert spread.argmax(-1).tolist() == list(done.token_ids)
        assert torch.allclose(spread.amax(-1), torch.tensor(done.raw_logprobs), atol=1e-4)


def test_it_learns_a_text_by_heart_and_every_weight_has_a_part_in_it(name: str) -> None:
    loaded = load(f"tiny:{name}", precision="float32", clean=False)
    network, ids = loaded.network.requires_grad_(True), tuple(loaded.tokenizer.encode("the cat sat on the mat. " * 4))
    rows = pack([Example("text", Rendered(ids, (False, *[True] * (len(ids) - 1)), 1))], 256)
    objective = CrossEntropy(CrossEntropy.Settings())
    optimizer = AdamW(AdamW.Settings()).build(dict(network.named_parameters()))
    network.train()
    before = evaluate(network, rows, objective)
    touched: set[str] = set()
    for parameter_name, parameter in network.named_parameters():
        parameter.register_post_accumulate_grad_hook(
            lambda p, key=parameter_name: touched.add(key) if bool(p.grad.abs().sum() > 0) else None
        )
    for _ in range(30):
        train_step(network, optimizer, rows, objective, learning_rate=1e-2, clip=1.0)
    assert evaluate(network, rows, objective) < before / 2
    assert touched == {key for key, _ in network.named_parameters()}
