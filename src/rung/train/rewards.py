"""Training of reward models: the loop of `loop`, over answers that are read by a head at their last token.

The head must be on the network (`rung.models.head`). Where nothing but the head is trained, the body goes over every
answer once, before the loop, and its states are kept: an epoch then costs what the head costs. Kept states lie in
`scratch`, so an interrupted run does not make them again.

Legend: M state that is kept, D width, B row, T token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from rung.base.errors import DataError, SettingsError
from rung.base.events import Events
from rung.base.files import write_bytes
from rung.base.fingerprint import content_hash
from rung.base.settings import nearest
from rung.models.head import attach_head, take_off
from rung.models.network import Attend, Network
from rung.records.chat.frame import Rendered
from rung.records.packing import DataReport, Example, check_examples
from rung.records.tokenizer import Tokenizer
from rung.train.adapters import trainable
from rung.train.loop import TrainResult, objective_of, run
from rung.train.order import DataOrder, order_of
from rung.train.reward_rows import (
    RewardData,
    RewardExample,
    RewardLabels,
    RewardRow,
    hold_out_groups,
    labels_of,
    pack_rewards,
)
from rung.train.settings import RewardSettings
from rung.train.step import hidden_at_ends, reward_outputs

__all__ = ["KeptStates", "keep_states", "reward_objective", "train_prepared", "train_reward"]

_FILE, _HEAD = "states.safetensors", "reward_head."


def train_reward(
    network: Network,
    tokenizer: Tokenizer,
    data: RewardData,
    settings: RewardSettings,
    *,
    events: Events,
    scratch: Path,
    on_step: Callable[[int], None],
) -> TrainResult:
    """Train the parameters that require a gradient, the head among them, to judge answers as they are labelled.

    As `rung.train.loop.train`: resumable from `scratch` to the bit; `on_step` gets the tokens of each finished piece of
    work.

    Raises:
        DataError: answers that cannot be trained on, or an example without what the objective reads.
        Drift: the checkpoint in `scratch` is of another run.
        ModelError: no head, nothing to train, or training diverged.
        SettingsError: an objective that does not read answers, a weight for an attribute that is not there, or FP8
            where there is none, or nothing below the head is trained.
    """
    reward_objective(settings, data)
    checked, report = _checked(data, settings.max_tokens, tokenizer)
    going: dict[str, Any] = {"events": events, "scratch": scratch, "on_step": on_step}
    if not all(name.startswith(_HEAD) for name in trainable(network)):
        return train_prepared(network, checked, settings, (report, _content(checked)), **going)
    if settings.fp8 != "no":
        # Whoever reads answers later does so without FP8: a head would meet other states than it was trained on.
        raise SettingsError(
            "only the head is trained, and it is not in FP8",
            place="training.fp8",
            hint="leave fp8 out, or set body: adapter",
        )
    states, short = keep_states(network, checked, settings, scratch, on_step)
    attach_head(states, take_off(network))
    try:
        return train_prepared(states, short, settings, (report, _content(checked)), texts=checked, **going)
    finally:
        attach_head(network, take_off(states))


def train_prepared(
    network: Network,
    data: RewardData,
    settings: RewardSettings,
    known: tuple[DataReport, Any],
    *,
    texts: RewardData | None = None,
    **going: Any,
) -> TrainResult:
    """`train_reward` for answers that are checked and cut, or are kept states; `known` is what the run reports of its
    data, and what its identity hashes. `texts` are the answers that kept states are of.

    Raises:
        As `train_reward`.
    """
    material = _Rewards(network, data, settings, (reward_objective(settings, data), *known))
    shown = hold_out_groups(texts or data, settings.eval_fraction, settings.seed)[0].examples
    material.order = order_of(network, [one.answers for one in shown], settings, **going)
    return run(network, material, settings, **going)


def reward_objective(settings: RewardSettings, data: RewardData) -> Any:
    """The objective that the settings name, held against the examples.

    Raises:
        SettingsError: it does not read answers, or weighs an attribute that is not there.
        DataError: an example that is no pair, or without any label that counts.
    """
    objective = objective_of(settings, "answers")
    for name in getattr(objective.settings, "weights", {}):
        if name not in data.attributes:
            raise SettingsError(
                f"no attribute is called '{name}'", place="objective.weights", hint=nearest(name, list(data.attributes))
            )
    wanted = getattr(type(objective), "attributes", data.attributes)
    if wanted != data.attributes:
        raise SettingsError(f"{type(objective).__name__} reads {wanted}, the labels are of {data.attributes}")
    for example in data.examples:
        if objective.reads == "pairs" and len(example.answers) != 2:
            raise DataError("the example is no pair of answers", place=example.id)
        if objective.reads == "labels" and not _counts(objective, example, data.attributes):
            raise DataError("the answer has no label that counts", place=example.id, hint="leave such answers out")
    return objective


class KeptStates(Network):
    """A network whose body is a table: token id m stands for the kept state m. A head on it sees what it would see on
    the body that the states came from."""

    def __init__(self, states_MD: Tensor, shape: Any) -> None:
        super().__init__()
        self.shape = shape
        self.states_MD = states_MD

    def hidden(self, token_ids_BT: Tensor, positions_BT: Tensor, attend: Attend) -> Tensor:
        """The states of these numbers, [B, T, D]."""
        return self.states_MD[token_ids_BT]

    @property
    def output_weight(self) -> Tensor:
        """The table: it says where the head must be."""
        return self.states_MD


def keep_states(
    network: Network, data: RewardData, settings: RewardSettings, scratch: Path, on_step: Callable[[int], None]
) -> tuple[KeptStates, RewardData]:
    """The body's states at the ends of all answers, and the data with each answer as one token, its state's number.

    States that `scratch` holds for the very same answers are taken from there.
    """
    answers: dict[tuple[int, ...], int] = {}
    for example in data.examples:
        for answer in example.answers:
            answers.setdefault(answer.rendered.token_ids, len(answers))
    identity = content_hash([list(ids) for ids in answers])
    states_MD = _stored(scratch / _FILE, identity)
    if states_MD is None:
        states_MD = _states(network, list(answers), settings, on_step)
        scratch.mkdir(parents=True, exist_ok=True)
        write_bytes(scratch / _FILE, safetensors.torch.save({"states": states_MD.cpu()}, {"identity": identity}))
    short = tuple(
        replace(example, answers=tuple(_short(one, answers[one.rendered.token_ids]) for one in example.answers))
        for example in data.examples
    )
    return KeptStates(states_MD.to(network.output_weight.device), network.shape), RewardData(short, data.attributes)


class _Rewards:
    """Labelled answers as the loop wants them; those of one prompt are trained or held out together."""

    name = "reward"
    order: DataOrder

    def __init__(
        self, network: Network, data: RewardData, settings: RewardSettings, known: tuple[Any, DataReport, Any]
    ) -> None:
        self.network, self.settings = network, settings
        self.objective, self.report, self.content = known
        self.training, held_out = hold_out_groups(data, settings.eval_fraction, settings.seed)
        self.held_out = pack_rewards(held_out, range(len(held_out.examples)), settings.tokens_per_micro_batch)
        self.num_held_out = len(held_out.examples)

    def rows(self, indices: Sequence[int]) -> Sequence[RewardRow]:
        """See `rung.train.loop.Material`."""
        return pack_rewards(self.training, indices, self.settings.tokens_per_micro_batch)

    def measure(self) -> dict[str, float]:
        """The loss, and for pairs the share that is told apart."""
        if not self.held_out:
            return {}
        summed = counted = won = 0.0
        for row, outputs_CK in zip(
            self.held_out, reward_outputs(self.network, self.held_out, self.settings.precision), strict=True
        ):
            labels = labels_of(row, outputs_CK.device)
            weights_U = self.objective.label_weights(labels)
            summed += float((self.objective.answer_losses(outputs_CK, labels) * weights_U).sum())
            counted += float(weights_U.sum())
            won += _won(outputs_CK, labels) if self.objective.reads == "pairs" else 0.0
        figures = {"loss": summed / counted} if counted else {}
        return figures | ({"accuracy": won / self.num_held_out} if self.objective.reads == "pairs" else {})


def _won(outputs_CK: Tensor, labels: RewardLabels) -> float:
    """Pairs whose better answer has the higher score; equal ones count half."""
    differences_P = outputs_CK[labels.chosen, 0] - outputs_CK[labels.rejected, 0]
    return float((differences_P.sign() + 1).sum() / 2)


def _counts(objective: Any, example: RewardExample, attributes: tuple[str, ...]) -> bool:
    nothing = torch.zeros(0)
    known = torch.tensor([[float("nan") if value is None else value for value in example.labels]])
    labels = RewardLabels(attributes, known, nothing, nothing, nothing)
    return bool(example.labels) and bool(objective.label_weights(labels).sum() > 0)


def _checked(data: RewardData, max_tokens: int, tokenizer: Tokenizer) -> tuple[RewardData, DataReport]:
    """The examples with every answer checked and cut; a cut may not make the two of a pair the same."""
    cut, report = check_examples(
        [answer for example in data.examples for answer in example.answers], max_tokens, tokenizer.end_ids[:1]
    )
    answers, checked = iter(cut), []
    for example in data.examples:
        own = tuple(next(answers) for _ in example.answers)
        if len({one.rendered.token_ids for one in own}) < len(own):
            raise DataError(
                "both answers have the same tokens",
                place=example.id,
                hint="raise max_tokens if they were cut, or leave such pairs out",
            )
        checked.append(replace(example, answers=own))
    return RewardData(tuple(checked), data.attributes), report


def _content(data: RewardData) -> list[Any]:
    """What a run's identity hashes."""
    return [
        list(data.attributes),
        [
            [one.id, one.group, list(one.labels), one.strength, [list(a.rendered.token_ids) for a in one.answers]]
            for one in data.examples
        ],
    ]


def _short(answer: Example, number: int) -> Example:
    return Example(answer.id, Rendered((number,), (True,), 0))


def _states(
    network: Network, answers: Sequence[tuple[int, ...]], settings: RewardSettings, on_step: Callable[[int], None]
) -> Tensor:
    examples = tuple(
        RewardExample(str(number), "", (Example(str(number), Rendered(ids, (True,) * len(ids), 0)),))
        for number, ids in enumerate(answers)
    )
    states_MD = torch.zeros(len(answers), network.shape.width)
    for row in pack_rewards(RewardData(examples), range(len(examples)), settings.tokens_per_micro_batch):
        states_CD = hidden_at_ends(network, row, settings.precision)
        states_MD[[int(name) for name in row.ids]] = states_CD.float().cpu()
        on_step(len(row.token_ids))
    return states_MD


def _stored(path: Path, identity: str) -> Tensor | None:
    """The states of a file, None where there is none, or of other answers."""
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            same = (file.metadata() or {}).get("identity") == identity
            states_MD: Tensor | None = file.get_tensor("states") if same else None
    except (OSError, safetensors.SafetensorError) as error:
        raise DataError(f"cannot read kept states: {error}", place=str(path), hint="remove the file") from error
    return states_MD
