"""Bugs of reinforcement learning and reward models that other projects shipped, to be planted one at a time.

Each plant replaces one callable of the subject's policy path (or its engine) and leaves the rest real.
"""

from __future__ import annotations

import copy
import dataclasses
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from rung.engine.engine import Engine
from rung.engine.settings import EngineSettings
from rung.pipeline.checks._policy_path import policy_path
from rung.pipeline.checks._subject import Subject
from rung.records.chat.following import following_ids
from rung.records.chat.prompting import PromptSettings, prompt_ids
from rung.records.contracts import Completion, Item, Request, Score, Trace
from rung.records.rollout import Rollout
from rung.scoring.checks import Checks
from rung.train.adapters import merge
from rung.train.policy_step import rollout_logprobs
from rung.train.reward_rows import pack_rewards

__all__ = ["POLICY_PLANTS"]

Plant = Callable[[Subject], Subject]
_SETTINGS = EngineSettings(num_slots=4)


def _policy(**fields: Any) -> Plant:
    return lambda subject: replace(subject, policy=replace(subject.policy, **fields))


# --- sampler and trainer


def _seen(change: Callable[[Rollout], Rollout]) -> Plant:
    """A trainer that looks at something else than what was sampled from."""
    return _policy(logprobs=lambda network, rollouts: rollout_logprobs(network, [change(one) for one in rollouts]))


def _raw(engine: Any, tokenizer: Any, items: Any, seeds: Any, num_tokens: int) -> list[Rollout]:
    """A player that keeps the log-probabilities of the unmodified model."""
    found = policy_path().play(engine, tokenizer, items, seeds, num_tokens)
    values = rollout_logprobs(engine._loaded.network, [replace(one, supports=(), temperature=1.0) for one in found])
    return [replace(one, logprobs=own) for one, own in zip(found, values, strict=True)]


def _steps_anyway(network: Any, rollouts: Sequence[Rollout], learning_rate: float) -> Any:
    """A rate that nobody reads: the optimizer steps at its own."""
    return policy_path().step(network, rollouts, 1e-4)


class _Noisy:
    """Log-probabilities with dropout on: another policy's every time they are computed, and worse with every call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, network: Any, rollouts: Sequence[Rollout]) -> list[tuple[float, ...]]:
        """Those of the network, off by more each time."""
        self.calls += 1
        draws = np.random.default_rng(self.calls)
        found = rollout_logprobs(network, rollouts)
        return [tuple(v + 0.01 * self.calls * float(draws.standard_normal()) for v in own) for own in found]


class _Copied(Engine):
    """A sampler with weights of its own that no update reaches."""

    def __init__(self, loaded: Any) -> None:
        super().__init__(replace(loaded, network=copy.deepcopy(loaded.network)), _SETTINGS)


class _Remembering(Engine):
    """A sampler that answers a prompt it has seen from what it kept of it."""

    def __init__(self, loaded: Any) -> None:
        super().__init__(loaded, _SETTINGS)
        self._kept: dict[tuple[int, ...], Completion] = {}

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """The first answer to each prompt, for ever."""
        for request, answer in zip(requests, super().complete(requests), strict=True):
            self._kept.setdefault(request.token_ids, answer)
        return [self._kept[request.token_ids] for request in requests]


# --- turns


def _second(change: Callable[[Any, Sequence[int]], Sequence[int]]) -> Plant:
    """A second prompt in which what was drawn is changed; `change` gets the tokenizer."""

    def prompt(tokenizer: Any, instruction: str, drawn: Sequence[int], words: str) -> tuple[int, ...]:
        chat = PromptSettings()
        kept = change(tokenizer, drawn)
        before = (*prompt_ids(tokenizer, chat, instruction), *kept)
        return (*before, *following_ids(tokenizer, chat, words, before))

    return _policy(second_prompt=prompt)


def _without_thought(tokenizer: Any, drawn: Sequence[int]) -> list[int]:
    text = tokenizer.decode(drawn)
    before, _, rest = text.partition("<think>")
    encoded: list[int] = tokenizer.encode(before + rest.partition("</think>")[2])
    return encoded


def _last_turn_only(tokenizer: Any, instruction: str, drawn: Sequence[int], words: str) -> tuple[int, ...]:
    return prompt_ids(tokenizer, PromptSettings(), words)


# --- pairs and rewards


def _pairs_padded(masks_end: bool) -> Plant:
    """Both responses padded to one length with the padding token: it counts, or whatever equals it does not."""

    def logprobs(subject: Subject, network: Any, pairs: Sequence[Any]) -> list[tuple[float, float]]:
        tokenizer = subject.tokenizer
        fill = tokenizer.end_ids[0] if masks_end else tokenizer.pad_id
        longest = max(len(e.rendered.token_ids) for pair in pairs for e in (pair.chosen, pair.rejected))

        def padded(example: Any) -> Any:
            whole = example.rendered
            extra = longest - len(whole.token_ids)
            ids = (*whole.token_ids, *(fill,) * extra)
            mask = (*whole.loss_mask, *(True,) * extra)
            if masks_end:
                mask = tuple(own and token != fill for own, token in zip(mask, ids, strict=True))
            return replace(example, rendered=replace(whole, token_ids=ids, loss_mask=mask))

        spoilt = [replace(pair, chosen=padded(pair.chosen), rejected=padded(pair.rejected)) for pair in pairs]
        return policy_path().pair_logprobs(network, spoilt)

    return lambda s: replace(s, policy=replace(s.policy, pair_logprobs=lambda n, p: logprobs(s, n, p)))


def _read_at(place: Callable[[Subject, Any], list[int]]) -> Plant:
    """Answers read at other places of their row."""

    def plant(subject: Subject) -> Subject:
        def packed(data: Any, indices: Sequence[int], max_tokens: int) -> list[Any]:
            rows = pack_rewards(data, indices, max_tokens)
            return [dataclasses.replace(row, sources=np.asarray(place(subject, row), np.int64)) for row in rows]

        return replace(subject, policy=replace(subject.policy, pack_rewards=packed))

    return plant


def _first_end(subject: Subject, row: Any) -> list[int]:
    """The first end token of each answer, wherever it stands."""
    end = subject.tokenizer.end_ids[0]
    starts = np.cumsum(row.lengths) - np.asarray(row.lengths)
    return [
        int(start + np.argmax(row.token_ids[start : start + length] == end))
        for start, length in zip(starts, row.lengths, strict=True)
    ]


def _last_of_row(subject: Subject, row: Any) -> list[int]:
    """The last place of the row, as if every answer were padded to it."""
    return [len(row.token_ids) - 1] * len(row.lengths)


def _merged_in_few_bits(network: Any) -> None:
    """Merged weights rounded to 16 levels a tensor, as before a 4-bit rollout."""
    merge(network)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 2:
                step = parameter.abs().max() / 7
                parameter.copy_((parameter / step).round() * step)


class _Swallowing(Checks):
    """A verifier that needs the main thread's alarm, and calls what goes wrong a wrong answer."""

    def score(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Score]:
        """0 for everything where the alarm cannot be set."""
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            return super().score(items, traces)
        except Exception as error:  # noqa: BLE001 - the bug that is planted
            return [Score(0.0, f"{error}") for _ in items]


class _Generous(Checks):
    """A verifier that accepts whatever is there."""

    def score(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Score]:
        """1 for everything."""
        return [Score(1.0) for _ in items]


class _Signless(Checks):
    """A verifier whose reading of answers stops at a sign or a space."""

    def score(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Score]:
        """Of each answer up to there."""
        return super().score(items, [replace(trace, text=trace.text.split(" ")[0][:1]) for trace in traces])


def _adapters(**fields: Any) -> Plant:
    return lambda subject: replace(subject, adapters=replace(subject.adapters, **fields))


POLICY_PLANTS: tuple[tuple[str, str, Plant], ...] = (
    ("sampling_ratio", "the trainer forgets top-p", _seen(lambda one: replace(one, supports=()))),
    ("sampling_ratio", "the trainer forgets the temperature", _seen(lambda one: replace(one, temperature=1.0))),
    ("sampling_ratio", "the player keeps the unmodified model's log-probabilities", _policy(play=_raw)),
    ("rollout_drift", "the optimizer steps at a rate of its own", _policy(step=_steps_anyway)),
    (
        "rollout_drift",
        "the trainer's log-probabilities wander between rounds",
        lambda s: replace(s, policy=replace(s.policy, logprobs=_Noisy())),
    ),
    ("weight_sync", "the sampler holds a copy of the weights", lambda s: replace(s, engine=_Copied)),
    ("weight_sync", "the sampler answers from what it kept", lambda s: replace(s, engine=_Remembering)),
    ("turn_ids", "drawn text is decoded and encoded again", _second(lambda t, ids: t.encode(t.decode(ids)))),
    (
        "turn_ids",
        "the end token that was drawn is dropped",
        _second(lambda t, ids: [i for i in ids if i not in t.end_ids]),
    ),
    ("earlier_turns", "thinking is taken out of earlier turns", _second(_without_thought)),
    ("earlier_turns", "only the last turn is sent", _policy(second_prompt=_last_turn_only)),
    ("pair_padding", "padding counts in the pair's log-probabilities", _pairs_padded(masks_end=False)),
    ("pair_padding", "the end token is masked with the padding that equals it", _pairs_padded(masks_end=True)),
    ("reward_place", "the reward is read at the first end token, in the question", _read_at(_first_end)),
    ("reward_place", "the reward is read at the row's last place", _read_at(_last_of_row)),
    ("merged_adapter", "merged weights are rounded to four bits", _adapters(merge=_merged_in_few_bits)),
    ("verifier_alive", "outside the main thread every answer gets 0", _policy(scorer=_Swallowing())),
    ("verifier_alive", "every answer is accepted", _policy(scorer=_Generous())),
    ("verifier_alive", "only the first character of an answer is read", _policy(scorer=_Signless())),
)
