"""Reinforcement learning from verifiable rewards: the model answers, a verifier judges, what did better gets likelier.

Before anything is spent the verifier is stress-tested, rewards are probed for tricks, and a pilot says how many groups
will teach something. Every sampled answer is kept as a record. What is published is an adapter for the base model (or
every weight); the gate recomputes the paired gain on held-out items, answered before and after, from the records.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rung.base.errors import SettingsError
from rung.base.fingerprint import plain
from rung.base.lookup import part
from rung.base.seeds import derive
from rung.base.settings import Field, Settings
from rung.engine.settings import EngineSettings
from rung.pipeline.stage import Context, Estimate, KnownBy, Outputs, Stage, Terms, Verdict
from rung.pipeline.stages._exam import ExamSettings, paired_figures, paired_verdict
from rung.pipeline.stages._rl_bench import Bench, open_policy, run_figures
from rung.pipeline.stages._rl_pilot import PilotSettings, pilot_figures
from rung.pipeline.stages._rl_scoring import build_judges, prove_judges
from rung.records.chat.prompting import PromptSettings
from rung.records.contracts import Item
from rung.records.manifest import Opened
from rung.scoring.hacking import HackingSettings
from rung.scoring.hidden import HiddenSettings
from rung.scoring.mixing import MixSettings, PartSettings
from rung.scoring.sandbox.settings import SandboxSettings
from rung.scoring.stress import StressSettings
from rung.scoring.task import as_test_item, check_disjoint
from rung.search.settings import PlaySettings
from rung.train.rollout_settings import RolloutSettings
from rung.train.settings import AdapterSettings

__all__ = ["Grpo"]

_INSTRUCT = "the model's guard: a model that follows instructions already is trained on purpose"
_PROOF_ITEMS = 16


class GrpoSettings(Settings):
    """Which model, on which tasks, rewarded by what, and what must come of it."""

    model: str = Field("", description="the stage whose trained model is gone on with; empty: the recipe's model")
    instruct: bool = Field(False, description="allow a model that is no clean base model; the bypass is recorded")
    tasks: tuple[str | dict[str, Any], ...] = Field(min_length=1, description="parts of scoring/tasks, with settings")
    num_items: int = Field(256, ge=4, le=1_000_000, description="training prompts of each task")
    prompt: PromptSettings = Field(PromptSettings(), description="how an instruction becomes ids")
    sampling: PlaySettings = Field(PlaySettings(), description="how rollouts are drawn")
    rewards: MixSettings = Field(
        MixSettings(parts={"correct": PartSettings(reward="verified", required=True)}), description="what is trained on"
    )
    accuracy: str = Field("", description="the reward that says right or wrong; empty: the first `verified`")
    training: RolloutSettings = Field(RolloutSettings(), description="how much, how fast, how carefully")
    adapter: AdapterSettings = Field(AdapterSettings(), description="which weights are trained")
    pilot: PilotSettings = Field(PilotSettings(), description="what must be possible before the first update")
    exam: ExamSettings = Field(ExamSettings(), description="held-out items, before, while and after")
    stress: StressSettings = Field(StressSettings(), description="what the verifier must show")
    hacking: HackingSettings = Field(HackingSettings(), description="what rewards about content must withstand")
    hidden_verifier: dict[str, Any] | None = Field(
        None, description="a verifier that training never sees; '{answer}' in it is the item's reference answer"
    )
    hidden: HiddenSettings = Field(HiddenSettings(), description="when the hidden verifier ends the run")
    sandbox: SandboxSettings = Field(
        SandboxSettings(slots=1), description="the least that holds answers which are programs"
    )
    engine: EngineSettings = Field(EngineSettings(), description="slots and cache of the engine")


class Grpo(Stage):
    """A policy trained on its own answers, all of them kept."""

    Settings = GrpoSettings
    version = 1
    outputs: Mapping[str, str] = {
        "pilot": "rollout", "rollout": "rollout", "baseline": "answer", "answer": "answer", "item": "test_item",
    }  # fmt: skip

    def inputs(self) -> dict[str, str]:
        """The model to go on from, where one is named."""
        return {"trained": self.settings.model} if self.settings.model else {}

    def check(self, terms: Terms) -> None:
        """Tasks and rewards are built once, so that a wrong name is told before any work.

        Raises:
            SettingsError: one that does not exist, dropout, a greedy draw, or an engine without log-probabilities.
        """
        own = self.settings
        for number, spec in enumerate(own.tasks):
            part("scoring.tasks", spec, f"tasks.{number}")
        build_judges(own.rewards, own.accuracy)
        for wrong, place, why in (
            (own.adapter.dropout > 0, "adapter.dropout", "rollouts are trained without dropout"),
            (own.sampling.temperature == 0, "sampling.temperature", "greedy answers are all alike"),
            (not own.engine.keep_logprobs, "engine.keep_logprobs", "training needs what the sampler drew from"),
        ):
            if wrong:
                raise SettingsError(why, place=place)
        if own.exam.num_samples > 1 and own.exam.temperature == 0:
            raise SettingsError("several greedy answers are one", place="exam.temperature", hint="set it above 0")

    def known_by(self) -> KnownBy:
        """All settings; that the guard's verdict does not count is a bypass."""
        return KnownBy(plain(self.settings), bypasses=(_INSTRUCT,) if self.settings.instruct else ())

    def units(self, inputs: Mapping[str, Opened]) -> float | None:
        """Answers to sample, without refills: rollouts, the pilot, and every exam."""
        own, training = self.settings, self.settings.training
        exams = 2 + training.num_steps // training.eval_interval
        rollouts = training.num_steps * training.prompts_per_step * training.group_size
        pilot = own.pilot.num_prompts * training.group_size
        return float(rollouts + pilot + exams * len(own.tasks) * own.exam.num_items * own.exam.num_samples)

    def estimate(self, inputs: Mapping[str, Opened]) -> Estimate:
        """At most so many tokens without refills: every answer at its limit, trained ones read once more."""
        training = self.settings.training
        trained = training.num_steps * training.prompts_per_step * training.group_size * training.num_passes
        tokens = ((self.units(inputs) or 0.0) + trained) * self.settings.sampling.max_new_tokens
        return Estimate(tokens=tokens, basis="at most, without refills: every answer as long as it may be")

    def run(self, context: Context, inputs: Mapping[str, Opened], outputs: Outputs) -> None:
        """Prove the judges, look at what is possible, train, publish weights, answers and curves."""
        own = self.settings
        items, held = self._items(context.seed)
        outputs.shard("item", 0, [as_test_item(item) for item in held])
        judges = build_judges(own.rewards, own.accuracy)
        shown = items[:: max(1, len(items) // _PROOF_ITEMS)]
        outputs.note("calibration", prove_judges(judges, shown, own.stress, own.hacking, own.sandbox))
        policy = open_policy(context, outputs, own.adapter, inputs.get("trained"), instruct=own.instruct)
        bench = Bench(context, outputs, own, policy.loaded, judges)
        bench.pilot(items)
        exam = bench.exam(held)
        result = bench.train(policy.loaded.network, items, exam)
        bench.answer(exam, "tuned", "answer")
        outputs.note("figures", {**run_figures(result), **policy.publish(outputs)})
        outputs.note("drops", dict(result.state.discarded))
        context.models.release()

    def figures(self, output: Opened) -> dict[str, Any]:
        """The paired gain, the pilot's expectation, and what was sampled, recomputed from the records."""
        size, outcomes = self.settings.training.group_size, dict[str, int]()
        for record in output.records("rollout"):
            outcomes[record.outcome] = outcomes.get(record.outcome, 0) + 1
        return {
            "exam": paired_figures(list(output.records("baseline")), list(output.records("answer"))),
            "pilot": pilot_figures(list(output.records("pilot")), size),
            "rollouts": dict(sorted(outcomes.items())),
            "base_unchanged": output.manifest.figures["base_unchanged"],
        }

    def gate(self, figures: Mapping[str, Any]) -> Verdict:
        """The gain on held-out items surely lies above its limit, and a frozen base is still what it was."""
        if not figures["base_unchanged"]:
            return Verdict(False, ("the frozen base changed during training",))
        return paired_verdict(figures["exam"], self.settings.exam)

    def _items(self, seed: int) -> tuple[list[Item], list[Item]]:
        """(training, held out), family after family; no item is in both."""
        train, held = list[Item](), list[Item]()
        for number, spec in enumerate(self.settings.tasks):
            kind, settings = part("scoring.tasks", spec, f"tasks.{number}")
            task = kind(settings)
            train += task.make(derive(seed, "items", number), self.settings.num_items, "train")
            held += task.make(derive(seed, "items", number), self.settings.exam.num_items, "held_out")
        check_disjoint(train, held)
        return train, held
