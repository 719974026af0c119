"""Training from rendered examples to trained weights, resumable at every step.

The loop is the same whatever is trained on; what that is, its `Material` knows: texts here, pairs in `preferences`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from rung.base.errors import ModelError, SettingsError
from rung.base.events import Events
from rung.base.fingerprint import content_hash
from rung.base.lookup import part
from rung.base.seeds import derive
from rung.models.fp8 import Fp8Report, fp8_of, in_fp8
from rung.models.network import Network
from rung.models.parallel.laid_out import laid_out
from rung.models.recompute import recomputing
from rung.records.packing import (
    DataReport,
    Example,
    PackedRow,
    check_examples,
    hold_out,
    pack,
)
from rung.records.tokenizer import Tokenizer
from rung.train.adapters import trainable
from rung.train.checkpoint import TrainState, load_best, load_checkpoint, save_best, save_checkpoint
from rung.train.loss_scale import LossScale
from rung.train.order import DataOrder, order_of
from rung.train.ranks import agreed, own_stream
from rung.train.schedules import learning_rate_factor
from rung.train.settings import SftSettings
from rung.train.step import StepReport, evaluate, train_step

__all__ = ["Material", "TrainResult", "loss_on", "objective_of", "run", "train"]

_READ_BY = {"targets": "weights", "pairs": "pair_losses", "answers": "answer_losses"}


class Material(Protocol):
    """What a run trains on. `content` is what its identity hashes; `report` counts it; `order` says which examples a
    step reads; `name` stands before metrics."""

    name: str
    objective: Any
    content: Any
    report: DataReport
    order: DataOrder
    num_held_out: int

    def rows(self, indices: Sequence[int]) -> Sequence[PackedRow]:
        """The rows of one step: the training examples of these numbers."""

    def measure(self) -> dict[str, float]:
        """Figures on what is held out, `loss` among them; empty when nothing is."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run did. Losses are nats per trained token, or per pair; curves are (step, loss), steps counted from 1.

    `final_step` is the step whose weights the network now has: the best one's after early stopping, else the last.
    `loss_scale` says where the scale of the loss ended and how many steps were left out, `fp8` what ran in FP8; None
    where there was none, or it was not asked for.
    """

    num_steps: int
    final_step: int
    losses: tuple[tuple[int, float], ...]
    validation: tuple[tuple[int, float], ...]
    stopped_early: bool
    resumed_from: int
    data: DataReport
    num_held_out: int
    num_targets: int
    num_tokens: int
    seconds: float
    loss_scale: LossScale | None = None
    fp8: Fp8Report | None = None

    @property
    def first_loss(self) -> float:
        """Loss of the first step, before any update."""
        return self.losses[0][1]

    @property
    def final_loss(self) -> float:
        """Loss of the last step."""
        return self.losses[-1][1]


def train(
    network: Network,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    settings: SftSettings,
    *,
    events: Events,
    scratch: Path,
    on_step: Callable[[int], None],
    also: Callable[[], dict[str, float]] | None = None,
) -> TrainResult:
    """Train the parameters that require a gradient; `rung.train.adapters.prepare` decides which.

    `scratch` holds the checkpoint; called again with the same arguments after any end, it goes on from there, and the
    weights are those of an uninterrupted run to the bit. `on_step` gets the tokens read by each finished step; what it
    raises passes through, after a checkpoint was written. `also` measures more at each evaluation, by name.

    Raises:
        DataError: examples that cannot be trained on (see `check_examples`), or a damaged checkpoint.
        Drift: the checkpoint in `scratch` is of another run.
        ModelError: nothing to train, or training diverged.
        SettingsError, MissingDependency: FP8 was asked for and there is none.
    """
    checked, report = check_examples(examples, settings.max_tokens, tokenizer.end_ids[:1])
    material = _Texts(network, checked, report, settings, also)
    material.order = order_of(
        network, [(e,) for e in material.examples], settings, events=events, scratch=scratch, on_step=on_step
    )
    return run(network, material, settings, events=events, scratch=scratch, on_step=on_step)


def loss_on(network: Network, examples: Sequence[Example], settings: SftSettings) -> Callable[[], float]:
    """The loss of examples that are not trained on, measured when it is called, as `train` measures its held-out ones.

    Raises:
        DataError: examples that could not be trained on either (see `check_examples`).
    """
    checked, _ = check_examples(examples, settings.max_tokens)
    rows = pack(checked, settings.tokens_per_micro_batch)
    objective = objective_of(settings, "targets")
    return lambda: evaluate(network, rows, objective, settings.precision)


def run(
    network: Network,
    material: Material,
    settings: SftSettings,
    *,
    events: Events,
    scratch: Path,
    on_step: Callable[[int], None],
) -> TrainResult:
    """`train` for any material. With `settings.devices` every rank of the job calls this, with the same arguments but
    for `on_step`: what one rank's raises ends them all, after a checkpoint that all write.

    Raises:
        DataError: a damaged checkpoint.
        Drift: the checkpoint in `scratch` is of another run.
        ModelError: nothing to train, or training diverged.
        SettingsError, MissingDependency: FP8 was asked for and there is none.
    """
    # FP8 first: whatever splits the weights over ranks must find the layers that they are used in.
    with (
        in_fp8(network, settings.fp8) as fp8,
        laid_out(network, settings.devices) as placement,
        recomputing(network, settings.recompute),
    ):
        _announce(material.report, fp8, events)
        going = _Run(network, material, settings, events, scratch)
        start = going.state.step
        going.go(agreed(on_step, placement))
        if placement is not None and placement.circle.timeline is not None:
            events.log(f"the ring since the last step began:\n{placement.circle.timeline.table()}")
    return going.result(start)


def objective_of(settings: SftSettings, reads: str) -> Any:
    """The objective that the settings name.

    Raises:
        SettingsError: unknown, with impossible settings, or one that reads something else than it must: `reads` is
            "targets", "pairs" or "answers".
    """
    kind, own = part("train.objectives", settings.objective, "objective")
    if not hasattr(kind, _READ_BY[reads]):
        raise SettingsError(
            f"{kind.__name__} does not read {reads}",
            place="objective",
            hint="pairs are read by dpo, cdpo, robust_dpo, ipo and simpo, targets by cross_entropy, answers by "
            "bradley_terry, attribute_regression, quantile and hierarchical",
        )
    return kind(own)


class _Texts:
    """Single responses, packed; the held-out ones in rows that never change."""

    name = "sft"
    order: DataOrder

    def __init__(
        self,
        network: Network,
        examples: Sequence[Example],
        report: DataReport,
        settings: SftSettings,
        also: Callable[[], dict[str, float]] | None,
    ) -> None:
        self.network, self.settings, self.report, self._also = network, settings, report, also
        self.objective = objective_of(settings, "targets")
        self.content = [[e.id, list(e.rendered.token_ids), list(e.rendered.loss_mask)] for e in examples]
        self.examples, held_out = hold_out(examples, settings.eval_fraction, settings.seed)
        self.held_out_rows = pack(held_out, settings.tokens_per_micro_batch)
        self.num_held_out = len(held_out)

    def rows(self, indices: Sequence[int]) -> Sequence[PackedRow]:
        """See `Material`."""
        return pack([self.examples[i] for i in indices], self.settings.tokens_per_micro_batch)

    def measure(self) -> dict[str, float]:
        """See `Material`."""
        if not self.held_out_rows:
            return {}
        loss = evaluate(self.network, self.held_out_rows, self.objective, self.settings.precision)
        return {"loss": loss, **(self._also() if self._also is not None else {})}


class _Run:
    """A run in progress; its whole memory is `state`, what is `kept` (parameters, balance) and the optimizer."""

    def __init__(
        self, network: Network, material: Material, settings: SftSettings, events: Events, scratch: Path
    ) -> None:
        self.network, self.material, self.settings = network, material, settings
        self.events, self.scratch, self.fp8 = events, scratch, fp8_of(network)
        self.parameters = trainable(network)
        if not self.parameters:
            raise ModelError("no parameter is trained", hint="call rung.train.adapters.prepare on the network first")
        optimizer_class, optimizer_settings = part("train.optim", settings.optimizer, "optimizer")
        self.optimizer = optimizer_class(optimizer_settings).build(self.parameters)
        self.num_steps = material.order.num_steps
        self.num_warmup_steps = round(settings.warmup_fraction * self.num_steps)
        identity = self._identity()
        self.kept = {**self.parameters, **({} if network.balance is None else network.balance.state)}
        fresh = TrainState(identity, scale=LossScale() if settings.precision == "float16" else None)
        self.state = load_checkpoint(scratch, identity, self.kept, self.optimizer) or fresh
        self.saved_step = self.state.step

    def go(self, on_step: Callable[[int], None]) -> None:
        """All remaining steps, then the best weights back when early stopping was asked for."""
        self.network.train()
        if self.state.step == 0:
            self._evaluate()
        while self.state.step < self.num_steps and not self.state.stopped_early:
            report = self._step()
            self._maybe_evaluate()
            self._maybe_checkpoint()
            try:
                on_step(report.num_tokens)
            except BaseException:
                self._checkpoint()
                raise
        self._checkpoint()
        if self.settings.patience and self.state.best_step >= 0:
            load_best(self.scratch, self.state.best_step, self.kept)
        self.network.eval()

    def result(self, resumed_from: int) -> TrainResult:
        """The run in numbers."""
        state, keeps_best = self.state, bool(self.settings.patience and self.state.best_step >= 0)
        return TrainResult(
            num_steps=state.step,
            final_step=state.best_step if keeps_best else state.step,
            losses=state.losses,
            validation=state.validation,
            stopped_early=state.stopped_early,
            resumed_from=resumed_from,
            data=self.material.report,
            num_held_out=self.material.num_held_out,
            num_targets=state.num_targets,
            num_tokens=state.num_tokens,
            seconds=state.seconds,
            loss_scale=state.scale,
            fp8=self.fp8,
        )

    def _step(self) -> StepReport:
        settings, step = self.settings, self.state.step
        factor = learning_rate_factor(settings.schedule, step, self.num_steps, self.num_warmup_steps)
        # Dropout draws from a state that depends on the step alone: a resumed run needs no saved generator.
        with torch.random.fork_rng():
            torch.manual_seed(derive(settings.seed, "dropout", step, *own_stream(self.network)))
            report = train_step(
                self.network,
                self.optimizer,
                self.material.rows(self.material.order(step)),
                self.material.objective,
                learning_rate=settings.learning_rate * factor,
                clip=settings.clip,
                precision=settings.precision,
                scale=self.state.scale,
            )
        self.state = replace(
            self.state,
            step=step + 1,
            losses=(*self.state.losses, (step + 1, report.loss)),
            num_targets=self.state.num_targets + report.num_targets,
            num_tokens=self.state.num_tokens + report.num_tokens,
            seconds=self.state.seconds + report.seconds,
            scale=report.scale,
        )
        self._emit(report)
        return report

    def _emit(self, report: StepReport) -> None:
        step, name = self.state.step, self.material.name
        self.events.metric(f"{name}/loss", report.loss, step)
        self.events.metric(f"{name}/learning_rate", report.learning_rate, step)
        if report.updated:
            self.events.metric(f"{name}/gradient_norm", report.grad_norm, step)
        if report.scale is not None:
            self.events.metric(f"{name}/loss_scale", report.scale.value, step)
            self.events.metric(f"{name}/num_skipped", report.scale.num_skipped, step)
        self.events.metric(f"{name}/trained_tokens_per_second", report.num_targets / report.seconds, step)
        for figure, value in self.material.order.figures(step - 1).items():
            self.events.metric(f"{name}/difficulty/{figure}", value, step)
        for figure, value in report.figures.items():
            self.events.metric(f"{name}/experts/{figure.removeprefix('experts/')}", value, step)
        self.events.progress(name, step, self.num_steps, "steps")

    def _maybe_evaluate(self) -> None:
        last = self.state.step == self.num_steps
        if last or self.state.step % self.settings.eval_interval == 0:
            self._evaluate()

    def _evaluate(self) -> None:
        state, figures = self.state, self.material.measure()
        for name, value in figures.items():
            self.events.metric(f"{self.material.name}/held_out_{name}", value, state.step)
        if not figures:
            return
        loss = figures["loss"]
        decides = loss if self.settings.decides == "loss" else -figures[self.settings.decides]
        better = state.best_loss is None or decides < state.best_loss
        waited = 0 if better else state.num_evaluations_since_best + 1
        if better and self.settings.patience:
            save_best(self.scratch, state.step, self.kept)
        self.state = replace(
            state,
            validation=(*state.validation, (state.step, loss)),
            best_step=state.step if better else state.best_step,
            best_loss=decides if better else state.best_loss,
            num_evaluations_since_best=waited,
            stopped_early=0 < self.settings.patience <= waited,
        )
        if self.state.stopped_early:
            self.events.log(
                f"stopped early: {waited} evaluations without a better held-out {self.settings.decides}",
                best_step=self.state.best_step,
            )

    def _maybe_checkpoint(self) -> None:
        interval = self.settings.checkpoint_interval
        if interval and self.state.step % interval == 0:
            self._checkpoint()

    def _checkpoint(self) -> None:
        if self.saved_step != self.state.step:
            save_checkpoint(self.scratch, self.state, self.kept, self.optimizer)
            self.saved_step = self.state.step

    def _identity(self) -> str:
        """Hash of what is trained on what. The interval between checkpoints and the devices may change, but not whether
        FP8 runs: that is more than a rounding."""
        settings = self.settings.model_dump(mode="json", exclude={"checkpoint_interval", "devices"})
        shapes = {name: [list(p.shape), str(p.dtype)] for name, p in self.parameters.items()}
        path = {} if self.fp8 is None else {"fp8": self.fp8.path}
        return content_hash({"settings": settings, "data": self.material.content, "parameters": shapes, **path})


def _announce(report: DataReport, fp8: Fp8Report | None, events: Events) -> None:
    if fp8 is not None and fp8.degraded:
        events.degraded("FP8", fp8.degraded)
    elif fp8 is not None:
        events.log(f"{fp8.num_layers} layers, {fp8.share:.0%} of the body's multiply-adds, in FP8", path=fp8.path)
    level = "warning" if report.num_truncated else "info"
    events.log(
        f"training data: {report.num_examples} examples, "
        f"{report.num_targets} of {report.num_tokens} tokens carry loss, "
        f"{report.num_truncated} cut",
        level=level,
        truncated_ids=list(report.truncated_ids),
        num_with_end=report.num_with_end,
    )
