"""Reward models over one frozen body: states of all answers once, then heads of every kind on the same split.

A contender says of pairs how much better it finds the first answer. Those that learn see the training part alone; what
scales their gaps to probabilities is fitted on the calibration part, for learners and baselines alike.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rung.base.events import Events
from rung.base.lookup import part
from rung.base.seeds import derive, uniform
from rung.datagen.labelled_set import LabelledSet
from rung.evaluate.probabilities import fit_temperature, reliability, sigmoid
from rung.evaluate.rewards import length_bias, pair_accuracy, won
from rung.models.head import attach_head, build_head, take_off
from rung.models.layers.attend import PackedAttend
from rung.pipeline.stages._reward_sets import Parts, PartsSettings, answers_of, part_by_prompt, training_data
from rung.records.chat.frame import Frame
from rung.records.packing import DataReport, Example, pack
from rung.records.types import PreferencePair
from rung.train.output_loss import target_logprobs
from rung.train.reward_reader import steps_of
from rung.train.reward_rows import RewardData, RewardExample, pack_rewards
from rung.train.rewards import KeptStates, train_prepared
from rung.train.settings import RewardSettings
from rung.train.step import reward_outputs

__all__ = ["BASELINES", "LEARNERS", "Body", "Contender", "contest", "judged"]

SPEC = {
    "pairwise (Bradley-Terry)": "bradley_terry",
    "multi-attribute regression": "attribute_regression",
    "quantile (mean of 9)": {"kind": "quantile", "num_levels": 9},
    "hierarchical": "hierarchical",
}
_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Known:
    """What the body says of one answer: its state at the last token, and the log-probability of its tokens."""

    state: torch.Tensor
    logprob: float
    num_tokens: int


class Body:
    """A frozen model that reads every answer once, whoever asks again."""

    def __init__(self, loaded: Any) -> None:
        self.loaded = loaded
        self.known: dict[tuple[int, ...], Known] = {}
        self.num_tokens = 0

    def ids(self, instruction: str, response: str) -> tuple[int, ...]:
        """The tokens by which an answer is known."""
        return Frame.render(self.loaded.tokenizer, instruction, response).token_ids

    @torch.no_grad()
    def read(self, examples: Sequence[Example]) -> None:
        """Read what is not known yet."""
        new = {one.rendered.token_ids: one for one in examples if one.rendered.token_ids not in self.known}
        network = self.loaded.network
        for row in pack([Example(str(n), one.rendered) for n, one in enumerate(new.values())], _TOKENS):
            token_ids, positions = (torch.from_numpy(values)[None] for values in (row.token_ids, row.positions))
            hidden_TD = network.hidden(token_ids, positions, PackedAttend([row.lengths]))[0]
            logprobs_N = target_logprobs(
                hidden_TD[torch.from_numpy(row.sources)].float(),
                network.output_weight.float(),
                torch.from_numpy(row.targets),
                softcap=network.softcap,
            )
            self._keep(row, hidden_TD, logprobs_N)
            self.num_tokens += len(row.token_ids)

    def states(self, data: RewardData) -> tuple[KeptStates, RewardData]:
        """A table of the states of these answers, and the data with each answer as its number."""
        self.read([answer for example in data.examples for answer in example.answers])
        places: dict[tuple[int, ...], int] = {}
        short = []
        for example in data.examples:
            answers = []
            for one in example.answers:
                number = places.setdefault(one.rendered.token_ids, len(places))
                answers.append(Example(one.id, replace(one.rendered, token_ids=(number,), loss_mask=(True,))))
            short.append(replace(example, answers=tuple(answers)))
        table = torch.stack([self.known[ids].state for ids in places])
        return KeptStates(table, self.loaded.network.shape), RewardData(tuple(short), data.attributes)

    def of(self, instruction: str, response: str) -> Known:
        """What is known of an answer, read now if need be."""
        ids = self.ids(instruction, response)
        if ids not in self.known:
            self.read([Example("x", Frame.render(self.loaded.tokenizer, instruction, response))])
        return self.known[ids]

    def _keep(self, row: Any, hidden_TD: torch.Tensor, logprobs_N: torch.Tensor) -> None:
        end = 0
        counts = [int(mask.sum()) for mask in np.split(row.loss_mask, np.cumsum(row.lengths)[:-1])]
        sums = [float(piece.sum()) for piece in torch.split(logprobs_N, counts)]
        for length, count, total in zip(row.lengths, counts, sums, strict=True):
            ids = tuple(row.token_ids[end : end + length].tolist())
            end += length
            self.known[ids] = Known(hidden_TD[end - 1].float().clone(), total, count)


Gaps = Callable[[Sequence[PreferencePair]], list[float]]


@dataclass(frozen=True, slots=True)
class Contender:
    """A name, and what makes its gaps from a body, a split and a seed."""

    name: str
    fit: Callable[[Body, Parts, int], Gaps]


def judged(name: str, preferences: Callable[[Sequence[PreferencePair]], Sequence[float | None]]) -> Contender:
    """A judge that reads both answers of a pair at once: the share of its readings that prefer the better one. It
    learns nothing here; an abstention is a gap of 0, which counts as half won."""

    def gaps(pairs: Sequence[PreferencePair]) -> list[float]:
        """Shares as distances from one half."""
        return [0.0 if share is None else share - 0.5 for share in preferences(pairs)]

    return Contender(name, lambda body, parts, seed: gaps)


def contest(
    body: Body, data: LabelledSet, seed: int, more: Sequence[Contender] = ()
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """All contenders on one split: figures by name, and each one's wins (1, 0.5 or 0) over the test pairs."""
    parts = part_by_prompt(data, PartsSettings(test_share=0.25, calibration_share=0.1, salt=seed))
    body.read(_examples(body, data))
    figures: dict[str, Any] = {}
    wins: dict[str, list[float]] = {}
    for contender in (*BASELINES, *LEARNERS, *more):
        gaps = contender.fit(body, parts, seed)
        fitted, found = gaps(parts.calibration.pairs), gaps(parts.test.pairs)
        scale = fit_temperature([*fitted, *(-gap for gap in fitted)], [True] * len(fitted) + [False] * len(fitted))
        figures[contender.name] = _figures(body, parts.test.pairs, found, scale)
        wins[contender.name] = [0.5 if gap == 0 else float(gap > 0) for gap in found]
    return figures, wins


def _figures(body: Body, pairs: Sequence[PreferencePair], gaps: Sequence[float], scale: float) -> dict[str, Any]:
    accuracy = pair_accuracy(gaps)
    stated = [float(value) for value in sigmoid(np.abs(np.asarray(gaps)) / scale)]
    told = reliability(stated, won(gaps))
    lengths = [
        float(body.of(p.instruction, p.chosen).num_tokens - body.of(p.instruction, p.rejected).num_tokens)
        for p in pairs
    ]
    bias = length_bias(gaps, lengths)
    kinds = sorted({pair.type for pair in pairs})
    own = {kind: [gap for gap, pair in zip(gaps, pairs, strict=True) if pair.type == kind] for kind in kinds}
    return {
        "n": accuracy.n, "rate": accuracy.rate, "low": accuracy.interval.low, "high": accuracy.interval.high,
        "brier": told.brier, "calibration_error": told.calibration_error,
        "longer_better": bias.longer_better.rate, "shorter_better": bias.shorter_better.rate,
        "length_correlation": bias.correlation,
        "by_kind": {kind: {"n": len(mine), "rate": pair_accuracy(mine).rate} for kind, mine in own.items()},
    }  # fmt: skip


def _examples(body: Body, data: LabelledSet) -> list[Example]:
    texts = [(pair.instruction, text) for pair in data.pairs for text in (pair.chosen, pair.rejected)]
    texts += [(one.instruction, one.text) for one in answers_of(data)[1]]
    return [Example(str(n), Frame.render(body.loaded.tokenizer, *text)) for n, text in enumerate(texts)]


def _learner(name: str, spec: Any) -> Contender:
    def fit(body: Body, parts: Parts, seed: int) -> Gaps:
        """Train a linear head over the body's states."""
        kind, own = part("train.objectives", spec)
        objective = kind(own)
        data = _steps_or_wholes(body, parts.train, objective)
        states, short = body.states(data)
        settings = RewardSettings(
            objective=spec, epochs=20, sequences_per_step=32, learning_rate=2e-3, seed=derive(seed, "order"),
            tokens_per_micro_batch=1 << 20, eval_interval=10, patience=10,
        )  # fmt: skip
        head = build_head("linear", states.shape.width, objective.num_outputs(len(data.attributes)))
        attach_head(states, head)
        report = DataReport(len(short.examples), len(short.examples), len(short.examples), (), None)
        with tempfile.TemporaryDirectory() as scratch:
            train_prepared(
                states, short, settings, (report, [name, seed]),
                events=Events(), scratch=Path(scratch), on_step=lambda num_tokens: None,
            )  # fmt: skip
        trained = take_off(states).eval()
        steps = bool(parts.train.solutions)
        return lambda pairs: _gaps(body, trained, (objective, steps), pairs)

    return Contender(name, fit)


def _steps_or_wholes(body: Body, data: LabelledSet, objective: Any) -> RewardData:
    """What the objective trains on. Without solutions a hierarchical model has wholes alone, without answers a model of
    labels has the ranks of solutions, or which answer of a pair was preferred."""
    tokenizer = body.loaded.tokenizer
    if hasattr(objective, "combined") and not data.solutions:
        answers = answers_of(data)[1]
        return RewardData(
            tuple(
                RewardExample(one.id, one.instruction, (_rendered(tokenizer, one),), (None, one.labels[0]))
                for one in answers
                if one.labels[0] is not None
            ),
            type(objective).attributes,
        )
    found: RewardData = training_data(tokenizer, data, objective)[0]
    return found


def _rendered(tokenizer: Any, answer: Any) -> Example:
    return Example(answer.id, Frame.render(tokenizer, answer.instruction, answer.text))


def _gaps(body: Body, head: Any, known: tuple[Any, bool], pairs: Sequence[PreferencePair]) -> list[float]:
    """By the first attribute, which is what pairs are made by; by the combination for a hierarchical model, which reads
    steps where it was taught by steps."""
    objective, steps = known
    texts = list(dict.fromkeys((p.instruction, text) for p in pairs for text in (p.chosen, p.rejected)))
    if not hasattr(objective, "combined"):
        scores = [float(values[0].mean()) for values in _values(body, head, objective, texts)]
    else:
        scores = _combined(body, head, (objective, steps), texts)
    score = dict(zip(texts, scores, strict=True))
    return [score[(p.instruction, p.chosen)] - score[(p.instruction, p.rejected)] for p in pairs]


def _combined(body: Body, head: Any, known: tuple[Any, bool], texts: Sequence[tuple[str, str]]) -> list[float]:
    objective, steps = known
    pieces: list[tuple[str, str]] = []
    owners: list[int] = []
    for number, (instruction, text) in enumerate(texts):
        num_steps, lines = steps_of(text)
        for n in range(num_steps if steps else 0):
            pieces.append(("\n".join([instruction, *lines[:n]]), lines[n]))
            owners.append(number)
    sound: dict[int, list[float]] = {}
    for owner, values in zip(owners, _values(body, head, objective, pieces), strict=True):
        sound.setdefault(owner, []).append(float(torch.sigmoid(values[0, 0])))
    scores = []
    for number, values in enumerate(_values(body, head, objective, texts)):
        own = sound.get(number, [1.0])
        scores.append(objective.combined(sum(own) / len(own), float(torch.sigmoid(values[1, 0]))))
    return scores


def _values(body: Body, head: Any, objective: Any, texts: Sequence[tuple[str, str]]) -> list[torch.Tensor]:
    if not texts:
        return []
    examples = tuple(
        RewardExample(str(n), "", (Example(str(n), Frame.render(body.loaded.tokenizer, *text)),))
        for n, text in enumerate(texts)
    )
    states, short = body.states(RewardData(examples))
    attach_head(states, head)
    found: dict[int, torch.Tensor] = {}
    for row in pack_rewards(short, range(len(texts)), 1 << 20):
        for name, values in zip(row.ids, objective.values(reward_outputs(states, [row])[0]), strict=True):
            found[int(name)] = values
    take_off(states)
    return [found[n] for n in range(len(texts))]


def _by(name: str, worth: Callable[[Known], float]) -> Contender:
    """A baseline whose sign is learnt from the training pairs: longer answers may be better or worse."""

    def fit(body: Body, parts: Parts, seed: int) -> Gaps:
        """Which way it counts."""

        def raw(pairs: Sequence[PreferencePair]) -> list[float]:
            """The gaps as they are."""
            return [worth(body.of(p.instruction, p.chosen)) - worth(body.of(p.instruction, p.rejected)) for p in pairs]

        sign = 1.0 if pair_accuracy(raw(parts.train.pairs)).rate >= 0.5 else -1.0
        return lambda pairs: [sign * gap for gap in raw(pairs)]

    return Contender(name, fit)


def _random(body: Body, parts: Parts, seed: int) -> Gaps:
    return lambda pairs: [uniform(derive(seed, "random", pair.id), 0) - 0.5 for pair in pairs]


BASELINES = (
    Contender("random", _random),
    _by("length alone", lambda known: float(known.num_tokens)),
    _by("log-probability", lambda known: known.logprob),
    _by("log-probability per token", lambda known: known.logprob / max(1, known.num_tokens)),
)
LEARNERS: Sequence[Contender] = tuple(_learner(name, spec) for name, spec in SPEC.items())
