"""The part of a subject that reinforcement learning and reward models run: from sampling to an update, from an answer
to its reward. Every field is the pipeline's own callable; a test plants a bug by putting another one in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rung.base.lookup import lookup
from rung.pipeline.stages._model import room
from rung.records.chat.prompting import PromptSettings
from rung.records.contracts import Capabilities, Completer, Completion, Item, Request, Sampling, Scorer
from rung.records.conversation import Room, converse
from rung.records.rollout import Rollout
from rung.records.scripted import Scripted
from rung.records.tokenizer import Tokenizer
from rung.scoring.checks import Checks
from rung.scoring.task import TaskSettings
from rung.search.one_shot import OneShot

if TYPE_CHECKING:
    from rung.models.network import Network

__all__ = ["PolicyPath", "policy_path"]

_FAMILIES = ("arithmetic", "comparison", "counting", "sorting", "string_transform")
_NUM_TASKS = 3
_TEMPERATURE, _TOP_P = 0.7, 0.9


@dataclass(frozen=True)
class PolicyPath:
    """`play` samples rollouts under a temperature and top-p, `logprobs` are the trainer's of them, `step` is one update
    at a learning rate, `rest` what a run does with its sampler before an update. `second_prompt` is what a model reads
    in turn two, after a prompt and the ids that it drew. `pair_logprobs` sums over both responses of pairs,
    `pack_rewards` and `reward_outputs` read answers with a head. `scorer` verifies answers to `tasks`."""

    play: Callable[[Completer, Tokenizer, Sequence[Item], Sequence[int], int], list[Rollout]]
    logprobs: Callable[[Network, Sequence[Rollout]], list[tuple[float, ...]]]
    step: Callable[[Network, Sequence[Rollout], float], Any]
    rest: Callable[[Any], None]
    second_prompt: Callable[[Tokenizer, str, Sequence[int], str], tuple[int, ...]]
    pair_logprobs: Callable[[Network, Sequence[Any]], list[tuple[float, float]]]
    pack_rewards: Callable[[Any, Sequence[int], int], Sequence[Any]]
    reward_outputs: Callable[[Network, Sequence[Any]], Sequence[Any]]
    scorer: Scorer
    tasks: tuple[Item, ...]


def policy_path() -> PolicyPath:
    """What a run uses."""
    policy, rewards, steps = room("train.policy_step"), room("train.reward_rows"), room("train.step")
    return PolicyPath(
        play=_play,
        logprobs=policy.rollout_logprobs,
        step=_step,
        rest=lambda engine: engine.release() if hasattr(engine, "release") else None,
        second_prompt=_second_prompt,
        pair_logprobs=_pair_logprobs,
        pack_rewards=rewards.pack_rewards,
        reward_outputs=steps.reward_outputs,
        scorer=Checks(),
        tasks=_tasks(),
    )


def _play(
    engine: Completer, tokenizer: Tokenizer, items: Sequence[Item], seeds: Sequence[int], num_tokens: int
) -> list[Rollout]:
    settings = OneShot.Settings(temperature=_TEMPERATURE, top_p=_TOP_P, max_new_tokens=num_tokens)
    player = OneShot(engine, tokenizer, PromptSettings(), settings)
    return [one.rollout for one in player.play(items, seeds, range(len(items)))]


def _step(network: Network, rollouts: Sequence[Rollout], learning_rate: float) -> Any:
    """One update of what is trained, every sample as good as the next."""
    policy, objectives = room("train.policy_step"), room("train.objectives.dapo")
    optimizers = room("train.optim.adamw")
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    samples = [
        policy.Sample(one, (1.0,) * len(one.token_ids), (True,) * len(one.token_ids), (True,) * len(one.token_ids))
        for one in rollouts
    ]
    return policy.policy_step(
        network,
        optimizers.AdamW(optimizers.AdamW.Settings()).build(trained),
        samples,
        objectives.Dapo(objectives.Dapo.Settings()),
        learning_rate=learning_rate,
        clip=1.0,
    )


@dataclass(frozen=True, slots=True)
class _Follow:
    """A script of two turns with the words of the caller."""

    words: str
    num_turns: int = 2

    def said(self, item: Item, turn: int) -> str:
        """The instruction, then the words."""
        return self.words if turn else item.instruction

    def begun(self, turn: int) -> str:
        """Nothing is put into the model's mouth."""
        return ""

    def stop(self, turn: int) -> tuple[str, ...]:
        """No stop string."""
        return ()

    def goes_on(self, turn: int, text: str) -> bool:
        """Always."""
        return True


class _Overheard(Scripted):
    """Answers with given ids and keeps what it was asked."""

    def __init__(self, drawn: Sequence[int], text: str) -> None:
        super().__init__(lambda request: "")
        self._drawn, self._text = tuple(drawn), text

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """The given ids, for every request."""
        self.requests += requests
        return [Completion(one.id, self._text, self._text, self._drawn, "stop", 0) for one in requests]

    def capabilities(self) -> Capabilities:
        """Ids alone."""
        return replace(super().capabilities(), messages=False)


def _second_prompt(tokenizer: Tokenizer, instruction: str, drawn: Sequence[int], words: str) -> tuple[int, ...]:
    """What a model that drew those ids is really sent in turn two."""
    overheard = _Overheard(drawn, tokenizer.decode(drawn))
    room_ = Room(overheard, (Sampling(), Sampling()), tokenizer)
    converse(room_, _Follow(words), [Item("audit", instruction)], [0])
    return overheard.requests[1].token_ids


def _pair_logprobs(network: Network, pairs: Sequence[Any]) -> list[tuple[float, float]]:
    """Of the chosen and the rejected response of each pair, all of them in one row."""
    packing, steps = room("train.pairs"), room("train.step")
    rows = packing.pack_pairs(pairs, sum(pair.num_tokens for pair in pairs))
    found: dict[str, tuple[float, float]] = {}
    for row, one in zip(rows, steps.pair_logprobs(network, rows), strict=True):
        found |= dict(zip(row.pair_ids, zip(one.chosen.tolist(), one.rejected.tolist(), strict=True), strict=True))
    return [found[pair.id] for pair in pairs]


def _tasks() -> tuple[Item, ...]:
    """A few items of every family that needs no sandbox."""
    made: list[Item] = []
    for name in _FAMILIES:
        kind = lookup("scoring.tasks", name)
        settings: TaskSettings = kind.Settings()
        made += kind(settings).make(0, _NUM_TASKS)
    return tuple(made)
