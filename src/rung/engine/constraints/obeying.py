"""One call from prompts and a constraint to texts, what they say in the constraint's own terms, and what the masks did.

The token ids that came back are walked through the constraint once more, so generation itself keeps nothing for this.

Legend: V vocabulary.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rung.engine.constraints.compiling import Compiler
from rung.engine.constraints.matching import GrammarConstraint
from rung.engine.constraints.parts import Parts, parts_of
from rung.engine.constraints.tree import Node, parse
from rung.records.contracts import Completion, Request, Sampling

__all__ = ["Intake", "MaskFigures", "Meaning", "Obeying", "Obeys", "complete_within", "mask_figures", "meaning_of"]


class Intake(Protocol):
    """Where constraints of a completer are compiled."""

    @property
    def compiler(self) -> Compiler:
        """For the completer's own tokens."""


class Obeys(Protocol):
    """A completer that knows its tokens' bytes (`rung.engine.engine.Engine` is one)."""

    @property
    def intake(self) -> Intake:
        """Where its requests are checked."""

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion per request, in order."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a text says under its constraint. `tree`: under a regular expression, a grammar, a choice or a schema, its
    places counted in the whole text; `value`: of JSON; `module`: of Python, its prefix included."""

    tree: Node | None = None
    value: Any = None
    module: ast.Module | None = None


@dataclass(frozen=True, slots=True)
class MaskFigures:
    """What masks did to one text, by step: `allowed`, the share of the vocabulary that they left, and `kept`, the share
    of the model's own probability (empty where it cannot be told: it takes log-probabilities, and sampling at
    temperature 1 from all that is allowed). `num_forced` are the steps with one token to choose from."""

    allowed: tuple[float, ...]
    kept: tuple[float, ...]
    num_forced: int

    @property
    def mean_allowed(self) -> float:
        """Over steps; 0.0 without any."""
        return sum(self.allowed) / len(self.allowed) if self.allowed else 0.0

    @property
    def mean_kept(self) -> float | None:
        """Over steps; None where it cannot be told."""
        return sum(self.kept) / len(self.kept) if self.kept else None


@dataclass(frozen=True, slots=True)
class Obeying:
    """A completion, its two parts, what it means (None: it was cut off and is incomplete), and what the masks did."""

    completion: Completion
    parts: Parts
    meaning: Meaning | None
    masks: MaskFigures

    @property
    def text(self) -> str:
        """All of it."""
        return self.completion.text


def complete_within(
    completer: Obeys, prompts: Sequence[str], constraint: Mapping[str, Any], sampling: Sampling, seed: int = 0
) -> list[Obeying]:
    """Complete prompts under one constraint; prompt number n draws with `seed` + n.

    Raises:
        SettingsError: a wrong constraint, or one that the limit cannot meet.
        MissingDependency: its kind needs a package that is not installed.
    """
    requests = [
        Request(str(place), sampling, seed + place, text=prompt, constraint=constraint)
        for place, prompt in enumerate(prompts)
    ]
    compiler = completer.intake.compiler
    return [
        Obeying(done, parts_of(done.text, constraint), _meaning(done, constraint, compiler), figures)
        for request, done in zip(requests, completer.complete(requests), strict=True)
        for figures in [mask_figures(request, done, compiler)]
    ]


def mask_figures(request: Request, done: Completion, compiler: Compiler) -> MaskFigures:
    """What the masks of a request's constraint did to its completion."""
    assert request.constraint is not None
    state, sampling = compiler.compile(request.constraint, f"request '{request.id}'").start(), request.sampling
    shares, num_forced = [], 0
    for step, token in enumerate(done.token_ids):
        mask_V = state.allowed(sampling.max_new_tokens - step)
        count = int(mask_V.sum())
        shares.append(count / len(mask_V))
        num_forced += count == 1
        if done.finish_reason != "eos" or step + 1 < len(done.token_ids):
            state.advance(token)
    return MaskFigures(tuple(shares), _kept(done, sampling), num_forced)


def meaning_of(text: str, constraint: Mapping[str, Any], compiler: Compiler, start: int = 0) -> Meaning:
    """What a whole text of a constraint says; a tree's places are counted from `start`.

    Raises:
        DataError, ValueError, SyntaxError: it is no text of the constraint.
    """
    [(kind, what)] = constraint.items()
    if kind == "after":
        parts = parts_of(text, constraint)
        return meaning_of(parts.answer or "", what["then"], compiler, start + parts.start)
    if kind == "python":
        return Meaning(module=ast.parse(what.get("prefix", "") + text))
    made = compiler.compile(constraint, "meaning")
    tree = parse(made.rules, text, start) if isinstance(made, GrammarConstraint) and kind != "json" else None
    return Meaning(tree, json.loads(text) if kind in ("json", "json_schema") else None)


def _meaning(done: Completion, constraint: Mapping[str, Any], compiler: Compiler) -> Meaning | None:
    return meaning_of(done.text, constraint, compiler) if done.complete else None


def _kept(done: Completion, sampling: Sampling) -> tuple[float, ...]:
    """A drawn token's probability under the model over that under the mask is what the mask kept of the whole."""
    plain = (sampling.temperature, sampling.top_p, sampling.top_k, sampling.repetition_penalty) == (1.0, 1.0, 0, 1.0)
    if not plain or len(done.raw_logprobs) != len(done.token_ids) or len(done.logprobs) != len(done.token_ids):
        return ()
    pairs = zip(done.raw_logprobs, done.logprobs, strict=True)
    return tuple(min(1.0, math.exp(raw - own)) for raw, own in pairs)
