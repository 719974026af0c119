"""The wiring of a policy's run: its players, its exam, and the loop."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rung.base.errors import GateFailed
from rung.base.fingerprint import plain
from rung.base.seeds import derive
from rung.pipeline.stage import Context, Outputs
from rung.pipeline.stages._exam import HeldOut
from rung.pipeline.stages._model import polling, room
from rung.pipeline.stages._rl_pilot import middle, pilot_figures, refuse_hopeless, sample_pilot
from rung.pipeline.stages._rl_scoring import Hidden, Judges, Watched
from rung.records.contracts import Item
from rung.records.types import RolloutRecord
from rung.search.one_shot import OneShot

__all__ = ["Bench", "run_figures"]

_CURVES = (
    "reward_mean", "entropy", "kl", "kl_coefficient", "drift", "mixed_share", "truncated", "length_right",
    "length_wrong", "mismatch",
)  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """What every part of the run is given. `settings` are those of the stage."""

    context: Context
    outputs: Outputs
    settings: Any
    loaded: Any
    judges: Judges

    @cached_property
    def engine(self) -> Any:
        """The engine over the very network that is trained, in the precision of the trainer's products."""
        own, context = self.settings.engine, self.context
        if self.settings.training.precision == "bfloat16" and "precision" not in own.model_fields_set:
            own = own.model_copy(update={"precision": "bfloat16"})
        return room("engine.engine").Engine(self.loaded, own, events=context.events, on_step=polling(context))

    def pilot(self, items: Sequence[Item]) -> None:
        """Sample groups before the first update; what an earlier attempt sampled is not sampled again.

        Raises:
            GateFailed: there is nothing to learn here, or no success to learn from.
        """
        own, context, size = self.settings.pilot, self.context, self.settings.training.group_size
        if not self.outputs.finished("pilot"):
            chosen = sorted(items, key=lambda item: derive(context.seed, "pilot", item.id))[: own.num_prompts]
            seed, cut = derive(context.seed, "pilot"), self.settings.training.truncated
            records = sample_pilot(self._player(), chosen, self.judges.accuracy, size, seed, truncated=cut)
            self.outputs.shard("pilot", 0, records)
            context.budget.spend(tokens=sum(len(record.token_ids) for record in records))
        figures = pilot_figures(self.outputs.records("pilot"), size, self.least or 1.0)
        self.outputs.note("figures", {"pilot": figures})
        refuse_hopeless(figures, own, context.name)

    @cached_property
    def least(self) -> float | None:
        """The value from which on an answer passes, where a trained model judges: the middle of the pilot's."""
        return middle(self.outputs.records("pilot")) if self.judges.graded else None

    def exam(self, held: Sequence[Item]) -> HeldOut:
        """The held-out exam, sat once before training."""
        own = self.settings
        answering = own.sampling.model_copy(update={"temperature": own.exam.temperature})
        exam = HeldOut(
            OneShot(self.engine, self.loaded.tokenizer, own.prompt, answering),
            held,
            self.judges.accuracy,
            own.exam,
            seed=self.context.seed,
            truncated=own.training.truncated,
            least=self.least,
            told=self.judges.learned,
        )
        self.answer(exam, "before", "baseline")
        exam.known = self.outputs.records("baseline")
        return exam

    def answer(self, exam: HeldOut, condition: str, output: str) -> None:
        """Sit the exam as the network is now, and keep every answer."""
        if self.outputs.finished(output):
            return
        sat = exam.sit(-1)
        self.engine.release()
        self.outputs.shard(output, 0, exam.answers(sat, condition))
        self.context.budget.spend(tokens=sat.num_tokens)

    def train(self, network: Any, items: Sequence[Item], exam: HeldOut) -> Any:
        """The loop, every answer of it kept."""
        own, context, rollouts = self.settings, self.context, room("train.rollout_loop")
        parts = room("train.rollout_parts").Parts(
            player=self._player(),
            rewards=self.judges.mix,
            accuracy=self.judges.accuracy,
            store=self._keep,
            rest=self.engine.release,
            poll=context.budget.poll,
            exam=exam,
            watch=self._watch(exam),
            content=plain([own.prompt, own.sampling, own.rewards, own.exam, own.hidden_verifier]),
        )
        return rollouts.train_on_rollouts(
            network,
            items,
            parts,
            own.training.model_copy(update={"seed": derive(context.seed, "rollouts")}),
            events=context.events,
            scratch=context.scratch,
            on_step=lambda num_tokens: context.budget.spend(tokens=num_tokens),
        )

    def _watch(self, exam: HeldOut) -> Watched | None:
        """A second look at held-out answers, where one is asked for. A hidden reward passes what lies above the middle
        of what it gave before training, as the reward model does: what is watched is how they part from there."""
        own, hidden = self.settings, self.judges.hidden
        limits = own.hidden if self.least is None else own.hidden.model_copy(update={"pass_from": self.least})
        if own.hidden_verifier:
            return Watched(limits, self.judges.accuracy, Hidden(own.hidden_verifier))
        if hidden is None:
            return None
        sat = exam.sit(0)
        given = [score.value for score in hidden.score(sat.items, sat.traces) if score.value is not None]
        if not given:
            raise GateFailed("the hidden reward could judge none of the held-out answers", place="hidden_reward")
        passes = {"hidden_pass_from": statistics.median(given)}
        return Watched(limits.model_copy(update=passes), self.judges.accuracy, hidden)

    def _player(self) -> OneShot:
        return OneShot(self.engine, self.loaded.tokenizer, self.settings.prompt, self.settings.sampling)

    def _keep(self, step: int, records: Sequence[RolloutRecord]) -> None:
        self.outputs.shard("rollout", step - 1, records)


def run_figures(result: Any, rollouts: Sequence[RolloutRecord], learned: Collection[str]) -> dict[str, Any]:
    """What a finished run says of itself, with its curves: those of what a trained model gave too, part by part."""
    state = result.state
    curves = {
        name: [[health.step, value] for health in state.history if (value := getattr(health, name)) is not None]
        for name in _CURVES
    }
    curves["accuracy"] = curves.pop("reward_mean", [])
    return {
        "num_steps": state.step,
        "final_step": result.final_step,
        "stopped": state.stopped,
        "reference": result.reference,
        "reference_bytes": result.reference_bytes,
        "num_prompts_drawn": state.num_drawn,
        "num_rollouts": state.num_rollouts,
        "num_updates": state.num_updates,
        "num_sampled_tokens": state.num_sampled,
        "num_trained_tokens": state.num_trained,
        "curves": {
            **{name: curve for name, curve in curves.items() if curve},
            **{f"reward.{name}": _curve(rollouts, f"raw.{name}") for name in learned},
            "held_out_pass_rate": plain(state.exams),
        },
    }


def _curve(rollouts: Sequence[RolloutRecord], name: str) -> list[list[float]]:
    """The mean of a part's raw values by step."""
    given: dict[int, list[float]] = {}
    for record in rollouts:
        if name in record.parts:
            given.setdefault(record.step, []).append(record.parts[name])
    return [[step, math.fsum(values) / len(values)] for step, values in sorted(given.items())]
