"""Policy optimisation on the policy's own answers, resumable to the bit.

A step samples groups of answers with the very network that is trained (or, from float32 weights for products in
bfloat16, with a copy that is rounded again wherever it was written: neither can be stale), judges them, gives credit
and updates. Prompts, samples and the order of updates are functions of the seed and of what the checkpoint holds, so a
run that was killed and goes on is the run that was never killed, answers included.

A run ends after its last step, or by name before: its health is bad, or the hidden verifier no longer agrees with the
reward. The weights that it leaves are those that did best on held-out items, or the last.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import stdev
from typing import Any

import torch

from rung.base.errors import DataError, ModelError, SettingsError
from rung.base.events import Events
from rung.base.fingerprint import content_hash, plain
from rung.base.lookup import part
from rung.models.network import Network
from rung.records.contracts import Item
from rung.train.adapters import trainable
from rung.train.advantages import Advantages, Credit
from rung.train.checkpoint import load_best, load_state, save_best, save_checkpoint
from rung.train.health import Diagnosis, HealthMonitor, StepHealth, step_health
from rung.train.policy import PolicyFigures
from rung.train.reference import Reference, choose_reference
from rung.train.rollout_batch import Batch, draw_batch
from rung.train.rollout_kl import Held, check_control, held_coefficient, read_reference
from rung.train.rollout_parts import Parts
from rung.train.rollout_settings import RolloutSettings
from rung.train.rollout_state import RolloutState, read_state
from rung.train.rollout_update import Updated, update
from rung.train.schedules import learning_rate_factor

__all__ = ["RolloutRun", "policy_objective", "train_on_rollouts"]


@dataclass(frozen=True, slots=True)
class RolloutRun:
    """What a run did. `final_step` is the step whose weights the network now has; `reference` says what KL was measured
    from, and how much memory that took."""

    state: RolloutState
    final_step: int
    resumed_from: int
    reference: str
    reference_bytes: int


def train_on_rollouts(
    network: Network,
    items: Sequence[Item],
    parts: Parts,
    settings: RolloutSettings,
    *,
    events: Events,
    scratch: Path,
    on_step: Callable[[int], None],
) -> RolloutRun:
    """Train the parameters that require a gradient; `rung.train.adapters.prepare` decides which.

    `scratch` holds the checkpoint; called again with the same arguments after any end, it goes on from there, and
    weights and records are those of an uninterrupted run to the bit. `on_step` gets the tokens sampled and read by each
    finished step; what it raises passes through, after a checkpoint was written.

    Raises:
        DataError: nothing to train on, or a damaged checkpoint.
        Drift: the checkpoint in `scratch` is of another run.
        ModelError: nothing to train, or training diverged.
        SettingsError: an objective that does not read rollouts, or credit that wants rewards of steps.
    """
    if not items:
        raise DataError("there is no prompt to train on", place="rollouts")
    going = _Run(network, items, parts, settings, events=events, scratch=scratch)
    start = going.state.step
    going.go(on_step)
    return going.result(start)


def policy_objective(settings: RolloutSettings) -> Any:
    """The objective that the settings name.

    Raises:
        SettingsError: unknown, with impossible settings, or one that does not read rollouts.
    """
    kind, own = part("train.objectives", settings.objective, "objective")
    if not hasattr(kind, "policy_loss"):
        raise SettingsError(
            f"{kind.__name__} does not read rollouts",
            place="objective",
            hint="grpo, dr_grpo, dapo, gspo, cispo, sapo and gmpo do",
        )
    return kind(own)


def _credit(settings: RolloutSettings) -> Credit:
    kind, own = part("train.credit", settings.credit, "credit")
    if kind.__name__ == "Process":
        raise SettingsError(
            "credit by steps needs rewards of steps, and a mix of rewards gives one for each answer",
            place="credit",
            hint="group_mean_std, group_mean, batch_std and leave_one_out read rewards of answers",
        )
    credit: Credit = kind(own)
    return credit


class _Run:
    """A run in progress; its whole memory is `state`, the parameters and the optimizer."""

    def __init__(
        self,
        network: Network,
        items: Sequence[Item],
        parts: Parts,
        settings: RolloutSettings,
        *,
        events: Events,
        scratch: Path,
    ) -> None:
        self.network, self.items, self.parts, self.settings = network, items, parts, settings
        self.events, self.scratch = events, scratch
        self.objective, self.credit = policy_objective(settings), _credit(settings)
        check_control(settings, self.objective.settings.kl_coefficient)
        self.parameters = trainable(network)
        if not self.parameters:
            raise ModelError("no parameter is trained", hint="call rung.train.adapters.prepare on the network first")
        # made before a checkpoint is read: the reference is the policy as it was at the start
        self.reference: Reference | None = choose_reference(network) if self.objective.uses_reference else None
        optimizer_class, optimizer_settings = part("train.optim", settings.optimizer, "optimizer")
        self.optimizer = optimizer_class(optimizer_settings).build(self.parameters)
        identity = self._identity()
        found = load_state(scratch, identity, self.parameters, self.optimizer, read_state)
        self.state = found or RolloutState(identity)
        self.saved_step, self.whole = self.state.step, True
        self.monitor, self.told = HealthMonitor(settings.health), set[tuple[str, int]]()
        for health in self.state.history:
            self.told |= {(alarm.rule, alarm.since) for alarm in self.monitor.observe(health).alarms}
        if self.parts.watch and self.state.watched is not None:
            self.parts.watch.restore(self.state.watched)

    def go(self, on_step: Callable[[int], None]) -> None:
        """All remaining steps, then the best weights back where they are wanted."""
        self.events.log(f"reference: {self._reference()}")
        if self.state.step == 0 and not self.state.exams:
            self._sit()
        while self.state.step < self.settings.num_steps and not self.state.stopped:
            try:
                num_tokens = self._step()
                on_step(num_tokens)
            except BaseException:
                # what was begun is begun again: half a step is never saved
                if self.whole:
                    self._checkpoint()
                raise
            if self.settings.checkpoint_interval and self.state.step % self.settings.checkpoint_interval == 0:
                self._checkpoint()
        self._checkpoint()
        if self._keeps_best():
            load_best(self.scratch, self.state.best_step, self.parameters)
        self.network.eval()

    def result(self, resumed_from: int) -> RolloutRun:
        """The run in numbers."""
        final = self.state.best_step if self._keeps_best() else self.state.step
        num_bytes = self.reference.num_bytes if self.reference else 0
        return RolloutRun(self.state, final, resumed_from, self._reference(), num_bytes)

    def _step(self) -> int:
        """One batch and its updates; returns the tokens that it sampled and read."""
        start, step = time.perf_counter(), self.state.step + 1
        self.network.eval()
        batch = draw_batch(step, self.state.num_drawn, self.items, self.parts, self.settings, credit=self.credit)
        self.parts.rest()
        sampling_seconds = time.perf_counter() - start
        self.parts.store(step, batch.records())
        self.whole = False
        held = read_reference(self.reference, batch, self.settings) if self.reference else None
        updated = self._update(batch, held)
        self._count(batch, updated, held, time.perf_counter() - start)
        self._say(batch, updated, sampling_seconds)
        self._diagnose(batch, updated)
        if step % self.settings.eval_interval == 0 or step == self.settings.num_steps or self.state.stopped:
            self._sit()
        self.whole = True
        return batch.num_sampled + updated.num_tokens

    def _coefficient(self, held: Held | None) -> float:
        """That of the KL in this step; 0.0 without a reference."""
        own: float = self.objective.settings.kl_coefficient
        return held_coefficient(own, held.kl if held is not None else None, self.settings.kl_control)

    def _objective(self, held: Held | None) -> Any:
        """The objective under the coefficient of this step."""
        if self.settings.kl_control is None:
            return self.objective
        changed = self.objective.settings.model_copy(update={"kl_coefficient": self._coefficient(held)})
        return type(self.objective)(changed)

    def _update(self, batch: Batch, held: Held | None) -> Updated:
        if not batch.kept:
            self.events.log(f"step {batch.step}: no group of {len(batch.drawn)} teaches anything", level="warning")
            return _nothing()
        self.network.train()
        return update(
            self.network,
            self.optimizer,
            batch,
            self._objective(held),
            self.settings,
            held=held,
            learning_rate=self._learning_rate(batch.step - 1),
            poll=self.parts.poll,
        )

    def _learning_rate(self, step: int) -> float:
        own = self.settings
        warmup = min(own.warmup_steps, own.num_steps)
        return own.learning_rate * learning_rate_factor(own.schedule, step, own.num_steps, warmup)

    def _count(self, batch: Batch, updated: Updated, held: Held | None, seconds: float) -> None:
        state = self.state
        health = _health(batch, updated)
        if held is not None:
            health = replace(health, kl=held.kl, kl_coefficient=self._coefficient(held))
        discarded = Counter(state.discarded) + Counter({str(k): v for k, v in batch.refilled.discarded.items()})
        self.state = replace(
            state,
            step=batch.step,
            num_drawn=state.num_drawn + len(batch.drawn),
            num_rollouts=state.num_rollouts + sum(len(group.played) for group in batch.drawn),
            num_sampled=state.num_sampled + batch.num_sampled,
            num_trained=state.num_trained + updated.num_trained,
            num_tokens=state.num_tokens + updated.num_tokens,
            num_updates=state.num_updates + updated.num_updates,
            discarded=dict(discarded),
            history=(*state.history, health),
            seconds=state.seconds + seconds,
        )

    def _say(self, batch: Batch, updated: Updated, sampling_seconds: float) -> None:
        """Everything about the step as metrics."""
        step, outcomes = batch.step, batch.outcomes()
        figures = {
            **dataclasses.asdict(self.state.history[-1]),
            "accuracy": self.state.history[-1].reward_mean,
            "length": _mean([float(o.num_tokens) for o in outcomes]),
            "useful_share": batch.refilled.useful_share if self.settings.refill else None,
            "num_drawn": float(len(batch.drawn)),
            "learning_rate": self._learning_rate(step - 1),
            "sampled_tokens_per_second": batch.num_sampled / max(sampling_seconds, 1e-9),
            "trained_tokens_per_second": updated.num_trained / max(updated.seconds, 1e-9),
        }
        for name in ("step", "reward_mean", "reward_spread"):
            del figures[name]
        for name, value in figures.items():
            if value is not None:
                self.events.metric(f"rl/{name}", value, step)
        if batch.mixed is not None:
            batch.mixed.log(self.events, step)
        self.events.progress("rl", step, self.settings.num_steps, "steps")

    def _diagnose(self, batch: Batch, updated: Updated) -> None:
        diagnosis: Diagnosis = self.monitor.observe(self.state.history[-1])
        for alarm in diagnosis.alarms:
            if (alarm.rule, alarm.since) not in self.told:
                self.events.log(alarm.message, level="warning", rule=alarm.rule, evidence=plain(alarm.evidence))
        self.told |= {(alarm.rule, alarm.since) for alarm in diagnosis.alarms}
        if diagnosis.stop is not None:
            self._stop(diagnosis.stop.message)

    def _sit(self) -> None:
        """Held-out items, the hidden verifier's word on them, and the best weights so far."""
        if self.parts.exam is None:
            return
        step = self.state.step
        self.network.eval()
        sat = self.parts.exam.sit(step)
        self.parts.rest()
        self.events.metric("rl/held_out_pass_rate", sat.rate, step)
        real, watch = sat.rate, self.parts.watch
        if watch is not None:
            verified = watch.observe(step, sat, self.events)
            real = sat.rate if verified is None else verified
            if reasons := watch.reasons():
                self._stop("; ".join(reasons))
        better = (self.state.best_rate is None or real > self.state.best_rate) and not self._is_far()
        if better and self.settings.keep == "best":
            save_best(self.scratch, step, self.parameters)
        self.state = replace(
            self.state,
            exams=(*self.state.exams, (step, sat.rate)),
            best_step=step if better else self.state.best_step,
            best_rate=real if better else self.state.best_rate,
            watched=watch.state() if watch is not None else None,
        )

    def _is_far(self) -> bool:
        """Whether the policy was last seen beyond the KL that a run is stopped for."""
        limits, seen = self.settings.health, self.state.history[-1].kl if self.state.history else None
        far = seen is not None and seen > limits.kl_limit and "kl_runaway" in limits.stop_on
        if far:
            self.events.log(
                f"weights {seen:.3g} nats from the reference are not kept as the best", step=self.state.step
            )
        return far

    def _stop(self, why: str) -> None:
        self.events.log(f"stopped: {why}", level="warning", step=self.state.step)
        self.state = replace(self.state, stopped=self.state.stopped or why)

    def _keeps_best(self) -> bool:
        return self.settings.keep == "best" and self.state.best_step >= 0

    def _reference(self) -> str:
        return self.reference.how if self.reference else "none, the KL coefficient is 0"

    def _checkpoint(self) -> None:
        if self.saved_step != self.state.step:
            save_checkpoint(self.scratch, self.state, self.parameters, self.optimizer)
            self.saved_step = self.state.step

    def _identity(self) -> str:
        """Hash of what is trained on what. The interval between checkpoints may change; it alters no weight."""
        settings = self.settings.model_dump(mode="json", exclude={"checkpoint_interval"})
        shapes = {name: [list(p.shape), str(p.dtype)] for name, p in self.parameters.items()}
        items = [[item.id, item.instruction] for item in self.items]
        return content_hash({"settings": settings, "items": items, "parts": self.parts.content, "parameters": shapes})


def _health(batch: Batch, updated: Updated) -> StepHealth:
    credit = batch.credit or Advantages(*(torch.zeros(0),) * 3, 0, 0, 0, 0)
    found = step_health(
        batch.step,
        batch.outcomes(),
        batch.rewards,
        figures=updated.figures,
        credit=credit,
        mismatch=updated.mismatch,
        loss=updated.loss,
        grad_norm=updated.grad_norm,
    )
    # kept groups are mixed by choice: how many there were says how much is left to learn
    share = batch.refilled.useful_share if batch.refilled.discarded or not batch.kept else found.mixed_share
    # a mix that is normalised in its groups has mean 0 whatever is learned: what is watched is the verifier's word
    given = [accuracy for group in batch.drawn for accuracy in group.accuracies if accuracy is not None]
    spread = stdev(given) if len(given) > 1 else None
    return replace(found, mixed_share=share, reward_mean=_mean(given), reward_spread=spread)


def _nothing() -> Updated:
    """A step in which no group taught anything."""
    figures = PolicyFigures(0, 0, 0.0, 0.0, 0.0, 0, 0, 0)
    return Updated(0.0, 0.0, figures, None, 0, 0, 0, 0.0)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
