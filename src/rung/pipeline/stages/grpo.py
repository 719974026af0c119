"""Reinforcement learning: the model answers, a verifier or a reward model judges, and what did better gets likelier.

Before anything is spent the verifier is stress-tested, rewards are probed for tricks, and a pilot says how many groups
will teach something. Reward models come from `reward` stages, of this recipe or of another run. Every sampled answer is
kept as a record. What is published is an adapter for the base model (or every weight); the gate recomputes the paired
gain on held-out items, answered before and after, from the records.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rung.base.errors import SettingsError
from rung.base.fingerprint import plain
from rung.base.lookup import part
from rung.base.seeds import derive
from rung.base.settings import Field, Settings, unsaid
from rung.engine.settings import EngineSettings
from rung.pipeline.stage import Context, Estimate, KnownBy, Outputs, Stage, Terms, Verdict
from rung.pipeline.stages._exam import ExamSettings, graded_figures, paired_figures, paired_verdict
from rung.pipeline.stages._model import origin_of
from rung.pipeline.stages._rl_bench import Bench, run_figures
from rung.pipeline.stages._rl_models import announced, guessed, lend, other_runs, stages_of
from rung.pipeline.stages._rl_pilot import PilotSettings, middle, pilot_figures
from rung.pipeline.stages._rl_scoring import Judges, build_judges, judged_by, prove_judges
from rung.pipeline.stages._tuning import open_tuning
from rung.records.chat.prompting import PromptSettings
from rung.records.contracts import Item
from rung.records.manifest import Opened, open_manifest
from rung.scoring.hacking import HackingSettings
from rung.scoring.hidden import HiddenSettings
from rung.scoring.mixing import MixSettings, PartSettings
from rung.scoring.reward import Lent, Reader
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

    model: str = Field("", description="the stage whose model is gone on with; empty: the recipe's model")
    instruct: bool = Field(False, description="allow a model that is no clean base model; the bypass is recorded")
    tasks: tuple[str | dict[str, Any], ...] = Field(min_length=1, description="parts of scoring/tasks, with settings")
    num_items: int = Field(256, ge=4, le=1_000_000, description="training prompts of each task")
    prompt: PromptSettings = Field(PromptSettings(), description="how an instruction becomes ids")
    sampling: PlaySettings = Field(PlaySettings(), description="how rollouts are drawn")
    rewards: MixSettings = Field(
        MixSettings(parts={"correct": PartSettings(reward="verified", required=True)}), description="what is trained on"
    )
    reward_models: dict[str, str] = Field(
        {},
        exclude_if=unsaid(),
        description="name under which a reward asks it -> the reward stage that trained it, or run:FOLDER of one",
    )
    accuracy: str = Field(
        "", description="the reward that says right or wrong; empty: the first `verified`, else the first `model`"
    )
    training: RolloutSettings = Field(RolloutSettings(), description="how much, how fast, how carefully")
    adapter: AdapterSettings = Field(AdapterSettings(), description="which weights are trained")
    pilot: PilotSettings = Field(PilotSettings(), description="what must be possible before the first update")
    exam: ExamSettings = Field(ExamSettings(), description="held-out items, before, while and after")
    stress: StressSettings = Field(StressSettings(), description="what the verifier must show")
    hacking: HackingSettings = Field(HackingSettings(), description="what rewards about content must withstand")
    hidden_verifier: dict[str, Any] | None = Field(
        None, description="a verifier that training never sees; '{answer}' in it is the item's reference answer"
    )
    hidden_reward: str | dict[str, Any] | None = Field(
        None,
        exclude_if=unsaid(),
        description="in place of it, a reward that training never sees: another model",
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
        """The model to go on from, where one is named, and the reward models that this recipe trains."""
        trained = {"trained": self.settings.model} if self.settings.model else {}
        return trained | stages_of(self.settings.reward_models)

    def files(self) -> dict[str, Path]:
        """The manifests of reward models of other runs."""
        return {f"reward_models.{name}": path for name, path in other_runs(self.settings.reward_models).items()}

    def check(self, terms: Terms) -> None:
        """Tasks and rewards are built once, so that a wrong name is told before any work.

        Raises:
            SettingsError: one that does not exist, dropout, a greedy draw, or an engine without log-probabilities.
            DataError, GateFailed: a reward model of another run that is not there, or did not pass.
        """
        own = self.settings
        for number, spec in enumerate(own.tasks):
            part("scoring.tasks", spec, f"tasks.{number}")
        asked = [*own.rewards.parts.values(), *([self._hidden] if self._hidden else [])]
        self._judges(guessed(own.reward_models, asked))
        for wrong, place, why in (
            (own.adapter.dropout > 0, "adapter.dropout", "rollouts are trained without dropout"),
            (own.sampling.temperature == 0, "sampling.temperature", "greedy answers are all alike"),
            (not own.engine.keep_logprobs, "engine.keep_logprobs", "training needs what the sampler drew from"),
            (bool(own.hidden_verifier and own.hidden_reward), "hidden_reward", "there is a hidden verifier already"),
        ):
            if wrong:
                raise SettingsError(why, place=place)
        if own.exam.num_samples > 1 and own.exam.temperature == 0:
            raise SettingsError("several greedy answers are one", place="exam.temperature", hint="set it above 0")

    def known_by(self) -> KnownBy:
        """All settings, but not where other runs lie; that the guard's verdict does not count is a bypass."""
        said, elsewhere = plain(self.settings), other_runs(self.settings.reward_models)
        said |= {"reward_models": {n: "run" if n in elsewhere else s for n, s in self.settings.reward_models.items()}}
        if not self.settings.reward_models:
            del said["reward_models"]
        inherited = [text for path in elsewhere.values() for text in open_manifest(path.parent).manifest.bypasses]
        return KnownBy(said, bypasses=(*((_INSTRUCT,) if self.settings.instruct else ()), *dict.fromkeys(inherited)))

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
        own, trained = self.settings, inputs.get("trained")
        adapted = own.adapter.kind == "lora" and own.adapter.quantise == "no"
        models = self._reward_models(inputs)
        self._judges({name: announced(opened, name) for name, opened in models.items()})
        items, held = self._items(context.seed)
        outputs.shard("item", 0, [as_test_item(item) for item in held])
        policy, lent = lend(
            context,
            models,
            lambda: open_tuning(context, outputs, own.adapter, trained, clean=not own.instruct),
            shares=adapted and not origin_of(context, trained).whole,
        )
        judges = self._judges(lent.readers)
        shown = items[:: max(1, len(items) // _PROOF_ITEMS)]
        outputs.note("calibration", prove_judges(judges, shown, own.stress, own.hacking, own.sandbox))
        bench = Bench(context, outputs, own, policy.loaded, judges)
        bench.pilot(items)
        exam = bench.exam(held)
        result = bench.train(policy.loaded.network, items, exam)
        bench.answer(exam, "tuned", "answer")
        told = run_figures(result, outputs.records("rollout") if models else (), judges.learned)
        outputs.note("figures", {**told, **policy.publish(outputs)})
        if models:
            outputs.note("figures", {"reward_models": lent.facts})
        outputs.note("drops", dict(result.state.discarded))
        context.models.release()

    def figures(self, output: Opened) -> dict[str, Any]:
        """The paired gain, the pilot's expectation, and what was sampled, recomputed from the records."""
        own, size, outcomes = self.settings, self.settings.training.group_size, dict[str, int]()
        for record in output.records("rollout"):
            outcomes[record.outcome] = outcomes.get(record.outcome, 0) + 1
        pilot, answers = list(output.records("pilot")), [list(output.records(n)) for n in ("baseline", "answer")]
        is_graded = judged_by(own.rewards, own.accuracy)[1]
        graded = {"graded": graded_figures(*answers)} if own.reward_models else {}
        return {
            "exam": {**paired_figures(*answers), **graded},
            "pilot": pilot_figures(pilot, size, middle(pilot) if is_graded else 1.0),
            "rollouts": dict(sorted(outcomes.items())),
            "base_unchanged": output.manifest.figures["base_unchanged"],
        }

    def gate(self, figures: Mapping[str, Any]) -> Verdict:
        """The gain on held-out items surely lies above its limit, and a frozen base is still what it was."""
        if not figures["base_unchanged"]:
            return Verdict(False, ("the frozen base changed during training",))
        return paired_verdict(figures["exam"], self.settings.exam)

    def _judges(self, readers: Mapping[str, Reader]) -> Judges:
        own = self.settings
        return build_judges(own.rewards, own.accuracy, Lent(readers=readers), self._hidden)

    @property
    def _hidden(self) -> PartSettings | None:
        return PartSettings(reward=self.settings.hidden_reward) if self.settings.hidden_reward else None

    def _reward_models(self, inputs: Mapping[str, Opened]) -> dict[str, Opened]:
        """The outputs of all reward stages that are asked, by name; those of other runs are looked at first."""
        found = {name: open_manifest(path.parent) for name, path in other_runs(self.settings.reward_models).items()}
        for opened in found.values():
            opened.verify()
        return {n: found[n] if n in found else inputs[f"reward_model.{n}"] for n in self.settings.reward_models}

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
