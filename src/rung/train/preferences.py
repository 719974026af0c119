"""Training on preference pairs: the loop of `loop`, with a frozen reference that is computed once, before it.

The reference is the network as it stands when this is called, so whatever is trained must begin by changing nothing: a
fresh adapter (`rung.train.adapters.stack_adapter`) does. Its log-probabilities are computed in the very rows
of the steps that show a pair first, so that the first step sees margins of exactly 0 and not of rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rung.base.errors import DataError
from rung.base.events import Events
from rung.base.files import read_json, write_json
from rung.base.fingerprint import content_hash
from rung.models.fp8 import in_fp8
from rung.models.network import Network
from rung.records.packing import DataReport, check_examples
from rung.records.tokenizer import Tokenizer
from rung.records.types import PairReward
from rung.train.loop import TrainResult, objective_of, run
from rung.train.normalise import global_sum, global_weight
from rung.train.order import DataOrder, order_of
from rung.train.pairs import PairExample, PairRow, hold_out_pairs, pack_pairs
from rung.train.settings import PreferenceSettings
from rung.train.step import pair_logprobs

__all__ = ["PreferenceResult", "pair_accuracy", "train_pairs"]

_FILE = "reference.json"


@dataclass(frozen=True, slots=True)
class PreferenceResult:
    """What a run did, and the rewards of every held-out pair under the weights that the network now has."""

    training: TrainResult
    rewards: tuple[PairReward, ...]


def train_pairs(
    network: Network,
    tokenizer: Tokenizer,
    pairs: Sequence[PairExample],
    settings: PreferenceSettings,
    *,
    events: Events,
    scratch: Path,
    on_step: Callable[[int], None],
) -> PreferenceResult:
    """Train the parameters that require a gradient to prefer the chosen responses.

    As `rung.train.loop.train`: resumable from `scratch` to the bit, `on_step` gets the tokens of each finished piece of
    work. Parameters with dropout on them would make the policy differ from the reference before the first step.

    Raises:
        DataError: pairs that cannot be trained on, or nothing left to train on beside what is held out.
        Drift: the checkpoint in `scratch` is of another run.
        ModelError: nothing to train, or training diverged.
        SettingsError: an objective that does not read pairs, or FP8 that there is not.
    """
    checked, report = _checked(pairs, settings.max_tokens, tokenizer)
    material = _Pairs(network, checked, report, settings)
    texts = [(pair.chosen, pair.rejected) for pair in material.training]
    # Reference, policy and rewards by the same products, or margins would be differences of roundings.
    with in_fp8(network, settings.fp8):
        material.order = order_of(network, texts, settings, events=events, scratch=scratch, on_step=on_step)
        if material.objective.uses_reference:
            material.find_references(scratch, events, on_step)
        training = run(network, material, settings, events=events, scratch=scratch, on_step=on_step)
        return PreferenceResult(training, material.rewards())


def pair_accuracy(rewards: Sequence[PairReward]) -> float:
    """Share of pairs whose chosen response has the higher reward; equal ones count half, none at all is 0.5."""
    return sum(one.won for one in rewards) / len(rewards) if rewards else 0.5


class _Pairs:
    """Preference pairs as the loop wants them; pairs of one prompt are trained or held out together."""

    name = "dpo"
    order: DataOrder

    def __init__(
        self, network: Network, pairs: Sequence[PairExample], report: DataReport, settings: PreferenceSettings
    ) -> None:
        self.network, self.settings, self.report = network, settings, report
        self.objective = objective_of(settings, "pairs")
        self.content = [
            [example.id, list(example.rendered.token_ids), list(example.rendered.loss_mask)]
            for pair in pairs
            for example in (pair.chosen, pair.rejected)
        ]
        self.training, self.held_out = hold_out_pairs(pairs, settings.eval_fraction, settings.seed)
        self.num_held_out = len(self.held_out)
        self.references: dict[str, tuple[float, float]] = {}

    def rows(self, indices: Sequence[int]) -> Sequence[PairRow]:
        """See `rung.train.loop.Material`."""
        return self._packed([self.training[i] for i in indices])

    def measure(self) -> dict[str, float]:
        """Loss, pair accuracy and mean rewards: a chosen reward that falls shows that both responses are unlearned."""
        if not self.held_out:
            return {}
        summed, rewards = self._look()
        count = global_weight([len(rewards)])
        return {
            "loss": global_sum([summed]) / count,
            "accuracy": global_sum([pair_accuracy(rewards) * len(rewards)]) / count,
            "chosen_reward": global_sum(one.chosen for one in rewards) / count,
            "rejected_reward": global_sum(one.rejected for one in rewards) / count,
        }

    def rewards(self) -> tuple[PairReward, ...]:
        """The rewards of every held-out pair, in the order of the pairs."""
        found = {one.id: one for one in self._look()[1]}
        return tuple(found[pair.id] for pair in self.held_out)

    def find_references(self, scratch: Path, events: Events, on_step: Callable[[int], None]) -> None:
        """Compute the reference's log-probabilities, or read those that an interrupted run of the same pairs kept."""
        identity = content_hash({"settings": self.settings, "data": self.content})
        path = scratch / _FILE
        if path.is_file():
            stored = read_json(path)
            if stored["identity"] == identity:
                self.references = {name: (chosen, rejected) for name, (chosen, rejected) in stored["logprobs"].items()}
                return
        found: dict[str, tuple[float, float]] = {}
        for rows in self._all_rows():
            for row, pairs in zip(rows, pair_logprobs(self.network, rows, self.settings.precision), strict=True):
                values = zip(pairs.chosen.tolist(), pairs.rejected.tolist(), strict=True)
                found.update(zip(row.pair_ids, values, strict=True))
                on_step(len(row.token_ids))
            events.progress("reference", len(found), len(self.training) + self.num_held_out, "pairs")
        scratch.mkdir(parents=True, exist_ok=True)
        write_json(path, {"identity": identity, "logprobs": found})
        self.references = found

    def _all_rows(self) -> Iterator[Sequence[PairRow]]:
        """The rows of each step, without the pairs that an earlier one had, until there are no others; then those held
        out."""
        seen = set[int]()
        for step in range(self.order.num_steps):
            if new := [index for index in self.order(step) if index not in seen]:
                yield self.rows(new)
            seen.update(new)
            if len(seen) == len(self.training):
                break
        yield self._packed(self.held_out)

    def _look(self) -> tuple[float, list[PairReward]]:
        """One pass over what is held out: the sum of losses, and the rewards."""
        rows, summed, rewards = self._packed(self.held_out), 0.0, []
        kinds = {pair.id: pair.kind for pair in self.held_out}
        for row, pairs in zip(rows, pair_logprobs(self.network, rows, self.settings.precision), strict=True):
            found = self.objective.pair_losses(pairs)
            summed += float(found.losses.sum())
            columns = (found.chosen_rewards, found.rejected_rewards, pairs.chosen_counts, pairs.rejected_counts)
            for name, *values in zip(row.pair_ids, *(column.tolist() for column in columns), strict=True):
                rewards.append(PairReward(name, kinds[name], *values))
        return summed, rewards

    def _packed(self, pairs: Sequence[PairExample]) -> tuple[PairRow, ...]:
        return pack_pairs(pairs, self.settings.tokens_per_micro_batch, self.references)


def _checked(
    pairs: Sequence[PairExample], max_tokens: int, tokenizer: Tokenizer
) -> tuple[tuple[PairExample, ...], DataReport]:
    """The pairs with both responses checked and cut; a cut may not make the two the same."""
    examples = [example for pair in pairs for example in (pair.chosen, pair.rejected)]
    cut, report = check_examples(examples, max_tokens, tokenizer.end_ids[:1])
    checked = tuple(
        replace(pair, chosen=chosen, rejected=rejected)
        for pair, chosen, rejected in zip(pairs, cut[::2], cut[1::2], strict=True)
    )
    same = [pair.id for pair in checked if pair.chosen.rendered.token_ids == pair.rejected.rendered.token_ids]
    if same:
        raise DataError(
            f"both responses have the same tokens, {len(same)} pairs are like that",
            place=same[0],
            hint="raise max_tokens if they were cut, or leave such pairs out",
        )
    return checked, report
