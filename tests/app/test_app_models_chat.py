"""Models one at a time, and talking to one."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

import rung.app.cli as cli
from rung.app.chat import Chat, Manner
from rung.app.models_keeper import ModelsKeeper
from rung.app.running import identify_model
from rung.base.errors import SettingsError
from rung.records.chat.frame import Frame
from rung.records.contracts import Completion, Request
from rung.records.stop import cut_at_stop
from rung.records.tokenizer import Tokenizer


@dataclass
class Model:
    network: torch.nn.Module


def keeper() -> tuple[ModelsKeeper, list[Any]]:
    attached: list[Any] = []
    made: Any = lambda source: Model(torch.nn.Linear(2, 2))  # noqa: E731
    return ModelsKeeper(made, lambda network, folder: attached.append(folder)), attached


def test_the_same_model_is_loaded_once_and_another_frees_it() -> None:
    kept, _ = keeper()
    first = kept.load("tiny:a")
    assert kept.load("tiny:a") is first
    assert kept.num_loads == 1
    gone = weakref.ref(first.network)
    del first
    kept.load("tiny:b")
    assert kept.num_loads == 2
    assert gone() is None, "two models must never be in memory together"


def test_a_model_that_was_changed_is_loaded_again() -> None:
    kept, _ = keeper()
    first = kept.load("tiny:a")
    with torch.no_grad():
        first.network.weight.add_(1)  # type: ignore[operator,union-attr]
    second = kept.load("tiny:a")
    assert second is not first
    second.network.extra = torch.nn.Linear(2, 2)
    assert kept.load("tiny:a") is not second


def test_an_adapter_is_attached_from_its_folder(tmp_path: Path) -> None:
    kept, attached = keeper()
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    tuned = kept.load("tiny:a", tmp_path / "adapter_model.safetensors")
    assert attached == [tmp_path]
    assert kept.load("tiny:a", tmp_path) is tuned
    assert kept.load("tiny:a") is not tuned


def test_identity_needs_no_load() -> None:
    assert identify_model("tiny:llama") == identify_model("tiny:llama")
    assert identify_model("tiny:llama") != identify_model("tiny:llama?seed=1")
    assert identify_model("") == ""
    with pytest.raises(SettingsError, match="kind of source"):
        identify_model("llama")
    with pytest.raises(SettingsError, match="names no model"):
        keeper()[0].load("")


def letters() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate([*alphabet, "<eos>"])}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return Tokenizer(inner, end_ids=(256,))


class Speaker:
    """Continues any prompt with the rest of a fixed answer, as ids; keeps what it was asked."""

    def __init__(self, tokenizer: Tokenizer, prompt: str, answer: str) -> None:
        self.tokenizer = tokenizer
        self.whole = (*tokenizer.document(prompt), *tokenizer.encode(answer), 256)
        self.requests: list[Request] = []

    def complete(self, requests: Any) -> list[Completion]:
        [request] = requests
        self.requests.append(request)
        start = len(request.token_ids)
        assert request.token_ids == self.whole[:start], "pieces must continue the same ids"
        ids = self.whole[start : start + request.sampling.max_new_tokens]
        text = self.tokenizer.decode([i for i in ids if i != 256])
        reason = "eos" if 256 in ids else "length"
        return [Completion("x", text, text, ids, reason, start)]  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", [" Paris.", " Zürich, naïvely; " * 4, " Paris.\nInstruction: more", " one\nQ: two"])
def test_pieces_join_to_the_answer_without_its_stop_string(answer: str) -> None:
    tokenizer = letters()
    speaker: Any = Speaker(tokenizer, Frame.prompt("What?"), answer)
    pieces = list(Chat(speaker, tokenizer, Manner()).answer("What?"))
    assert "".join(pieces) == cut_at_stop(answer, Frame.stop_strings)[0].lstrip()
    assert not any("\ufffd" in piece for piece in pieces), "no half characters on the screen"


def test_the_limit_and_the_manner_hold() -> None:
    tokenizer = letters()
    speaker: Any = Speaker(tokenizer, "Once", " upon a time" * 20)
    chat = Chat(speaker, tokenizer, Manner(raw=True, temperature=0.5, max_new_tokens=30, seed=3))
    assert "".join(chat.answer("Once")) == (" upon a time" * 20)[:30].lstrip()
    assert {r.sampling.temperature for r in speaker.requests} == {0.5}
    assert sum(r.sampling.max_new_tokens for r in speaker.requests) == 30
    assert len({r.seed for r in speaker.requests}) == len(speaker.requests), "pieces must not repeat their draws"


def test_commands_change_the_manner_and_say_so() -> None:
    chat = Chat(None, letters(), Manner())  # type: ignore[arg-type]
    assert chat.command("/raw") == "bare text"
    assert chat.command("/raw") == "in the frame"
    assert "0.7" in chat.command("/temperature 0.7")
    assert chat.manner.temperature == 0.7
    assert "out of range" in chat.command("/tokens 0")
    assert "not a number" in chat.command("/tokens many")
    assert chat.manner.max_new_tokens == 200
    assert "/quit" in chat.command("/help")
    assert "no command" in chat.command("/nothing")


def test_chat_without_a_terminal_or_with_a_wrong_name_is_refused(
    demo_runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.execute(["chat", "tiny:llama"]) == 2
    assert "--ask" in capsys.readouterr().err
    assert cli.execute(["chat", "nothing", "--ask", "x", "--runs", str(demo_runs)]) == 2
    assert "demo" in capsys.readouterr().err
    assert cli.execute(["chat", "demo/nothing", "--ask", "x", "--runs", str(demo_runs)]) == 3


def test_a_real_engine_answers_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["chat", "tiny:llama", "--ask", "One?", "--ask", "Two?", "--max-tokens", "20"]
    assert cli.execute(arguments) == 0
    first = capsys.readouterr()
    assert "> One?" in first.out
    assert "> Two?" in first.out
    assert "tiny:llama: llama" in first.err
    assert cli.execute(arguments) == 0
    assert capsys.readouterr().out == first.out, "greedy answers repeat"
