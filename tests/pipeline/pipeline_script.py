"""A scripted base model for the data stages: it writes numbered instructions and answers them, some of them badly."""

from __future__ import annotations

import types
from typing import Any

from rung.base.seeds import stream
from rung.models.report import LoaderReport
from rung.records.contracts import Request
from rung.records.scripted import Scripted

PLACES = "harbour meadow bridge market library garden station museum bakery orchard valley island".split()
THINGS = "lantern kettle ladder violin basket compass anchor pillow candle hammer blanket mirror".split()
WAYS = "quiet wooden ancient yellow heavy broken tiny polished rusty folded painted hollow".split()


def answer(request: Request) -> str:
    """Instructions for a prompt that ends in a bare number, else a response; a quarter of them are off the topic."""
    random = stream(request.seed, "script")
    last = request.text.rstrip().rsplit("\n", 1)[-1]
    if last.rstrip(".").isdigit():
        number = int(last.rstrip("."))
        lines = [
            f"Describe the {random.choice(WAYS)} {random.choice(THINGS)} that stands near the {random.choice(PLACES)}."
            for _ in range(3)
        ]
        return " " + "\n".join([lines[0], *(f"{number + n}. {text}" for n, text in enumerate(lines[1:], 1))])
    instruction = request.text.rsplit("Instruction: ", 1)[1].split("\n", 1)[0]
    if random.random() < 0.25:
        return " Bananas are sweet fruit that many people like to eat.\n###END###"
    words = instruction.rstrip(".").split()
    return f" People often notice this {words[3]} beside the old {words[-1]} in summer.\n###END###\n\nInstruction: more"


def informed(prompt: str, continuation: str) -> float:
    """Log-probability: words that the prompt mentions are cheap, others cost two nats each."""
    known = set(prompt.lower().replace(".", " ").split())
    words = continuation.lower().replace(".", " ").split()
    return -sum(0.1 if word in known else 2.0 for word in words) - 0.1


def script() -> Scripted:
    """A fresh scripted model."""
    return Scripted(answer, informed)


class ScriptedModels:
    """The keeper of models, for stages whose engine is scripted."""

    def load(self, source: str, adapter: Any = None) -> Any:
        """Facts about a clean model."""
        report = LoaderReport(
            model_name=source, content_id="c0", family="scripted", path="fast", precision="float32",
            precision_reason="", template_disabled=False, strict=True, start_ids=(), verdict="clean",
        )  # fmt: skip
        return types.SimpleNamespace(
            source=source, content_id="c0", family="scripted", path="fast", precision="float32", report=report
        )

    def release(self) -> None:
        """Nothing is held."""
