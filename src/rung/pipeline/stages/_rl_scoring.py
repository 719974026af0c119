"""Who judges a policy: the mix of rewards, the verifier, the hidden one; and what they must show before any spending.

A verifier that can be fooled is not earned by, a reward about content that rises with stuffing is refused, and code is
run nowhere but in a sandbox that reaches its floor. What was found goes into the manifest's calibration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rung.base.errors import SettingsError
from rung.base.events import Events
from rung.base.fingerprint import plain
from rung.base.lookup import part
from rung.base.settings import nearest
from rung.pipeline.stages._rl_models import as_parts, is_model
from rung.records.contracts import Item, Score, Scorer, Trace
from rung.records.types import from_plain
from rung.scoring.hacking import PROBES, HackingSettings, ProbeCase, probe, refuse_hackable
from rung.scoring.hidden import HiddenSettings, HiddenWatch, Observation
from rung.scoring.mixing import Mix, MixSettings, PartSettings, Ranged
from rung.scoring.reading import words
from rung.scoring.remembered import Remembered
from rung.scoring.reward import Lent
from rung.scoring.rewards.model import Model
from rung.scoring.rewards.verified import Verified
from rung.scoring.sandbox.ladder import climb
from rung.scoring.sandbox.settings import SandboxSettings
from rung.scoring.stress import StressSettings, require_strong, stress

__all__ = ["Hidden", "Judges", "Watched", "build_judges", "judged_by", "prove_judges"]

_ANSWER = "{answer}"


@dataclass(frozen=True)
class Judges:
    """What rewards, and what says right or wrong. Where the verifier is a part of the mix it is one object: an answer
    is judged once. `content` are the parts that are about what an answer says, by name; `learned` those of the mix that
    a trained model gives, each of its attributes apart. Where `graded`, accuracy is a trained model's value, and right
    is what lies above the middle of what the policy said at first. `hidden` is a reward that training never sees."""

    mix: Mix
    accuracy: Ranged
    content: Mapping[str, Ranged]
    learned: Mapping[str, Ranged] = field(default_factory=dict)
    graded: bool = False
    hidden: Ranged | None = None


class Hidden:
    """A verifier whose settings come from each item: "{answer}" in them stands for the item's reference answer."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._spec = dict(spec)

    def score(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Score]:
        """One score per (item, trace) pair, in order.

        Raises:
            SettingsError: a verifier or setting that does not exist.
        """
        return [self._of(item).score([item], [trace])[0] for item, trace in zip(items, traces, strict=True)]

    def _of(self, item: Item) -> Scorer:
        answer = item.reference.get("answer", "")
        filled = {key: answer if value == _ANSWER else value for key, value in self._spec.items()}
        kind, settings = part("scoring.verifiers", filled, "hidden_verifier")
        verifier: Scorer = kind(settings)
        return verifier


class Watched:
    """The hidden verifier's watch, as `rung.train.rollout_parts.Watch` wants it."""

    def __init__(self, settings: HiddenSettings, reward: Scorer, hidden: Scorer) -> None:
        self._watch = HiddenWatch(settings, reward, hidden)

    def observe(self, step: int, sat: Any, events: Events) -> float | None:
        """Judge a sat exam with both; the hidden verifier's rate."""
        found = self._watch.observe(step, sat.items, sat.traces)
        self._watch.log(events)
        return found.hidden_rate

    def reasons(self) -> tuple[str, ...]:
        """Why to stop."""
        return self._watch.reasons

    def state(self) -> Any:
        """Every observation."""
        return plain(self._watch.history)

    def restore(self, state: Any) -> None:
        """Observations that were kept."""
        self._watch.history = [from_plain(Observation, row, "hidden") for row in state]


def judged_by(settings: MixSettings, accuracy: str) -> tuple[str, bool]:
    """(part, graded): who says right or wrong, and whether that is a trained model. The part called `accuracy`, else
    the first `verified`, else the first `model`; empty: the items' own checks.

    Raises:
        SettingsError: no part is called that.
    """
    kinds = {name: _kind(own.reward) for name, own in settings.parts.items()}
    if accuracy and accuracy not in kinds:
        raise SettingsError(f"no reward is called '{accuracy}'", place="accuracy", hint=nearest(accuracy, list(kinds)))
    found = [accuracy] if accuracy else []
    for kind in ("verified", "model"):
        found += [name for name, own in kinds.items() if own == kind]
    return (found[0], kinds[found[0]] == "model") if found else ("", False)


def build_judges(
    settings: MixSettings, accuracy: str, lent: Lent | None = None, hidden: PartSettings | None = None
) -> Judges:
    """The mix, each attribute of a reward model a part of it, and who says right or wrong (see `judged_by`).

    Raises:
        SettingsError: a reward, setting or part that does not exist, or one that needs what is not lent.
    """
    lent, (chosen, graded) = lent or Lent(), judged_by(settings, accuracy)
    apart = as_parts(settings, lent.readers)
    built, content, learned = dict[str, Ranged](), dict[str, Ranged](), dict[str, Ranged]()
    for name, own in apart.parts.items():
        made, is_content = _built(name, own, lent)
        built[name] = Remembered(made) if name == chosen and not graded else made
        if is_model(own):
            learned[name] = built[name]
        elif is_content:
            content[name] = built[name]
    wholes = {name: _built(name, own, lent)[0] for name, own in settings.parts.items() if is_model(own)}
    says = built.get(chosen) or Remembered(Verified(Verified.Settings()))
    watching = _built("hidden", hidden, lent)[0] if hidden else None
    mix, says = Mix(apart, built), wholes[chosen] if graded else says
    return Judges(mix, says, {**content, **wholes}, learned, graded, watching)


def _built(name: str, own: PartSettings, lent: Lent) -> tuple[Ranged, bool]:
    """The reward of a part, and whether it is about content."""
    spec = own.reward if isinstance(own.reward, str) else dict(own.reward)
    kind, values = part("scoring.rewards", spec, f"rewards.parts.{name}.reward")
    return kind(values, lent), kind.CONTENT


def prove_judges(
    judges: Judges, items: Sequence[Item], tries: StressSettings, probes: HackingSettings, sandbox: SandboxSettings
) -> dict[str, Any]:
    """Try verifier and rewards on items with known answers; what was found, for the manifest.

    A trained model was measured by its own stage, and prefers what it was taught to, which need not be right over
    wrong: what the probes find of it is told and refuses nothing. What guards against it is a hidden scorer.

    Raises:
        GateFailed: the verifier is not strong, or a reward about content rises with tricks.
        SandboxRefused: answers are programs and nothing here reaches the sandbox's floor.
    """
    found: dict[str, Any] = {}
    if any("code" in item.reference.get("checks", {}) for item in items):
        chosen = climb(sandbox)
        chosen.sandbox.close()
        found["sandbox"] = plain(chosen.record())
    if not judges.graded:
        report = stress("accuracy", judges.accuracy, items, tries)
        found["verifier"] = report.as_json()
        require_strong(report)
    cases = [
        ProbeCase(item, str(item.reference["answer"]), str(item.reference["wrong"][0]))
        for item in items
        if item.reference.get("wrong") and not _is_said_anyway(str(item.reference["answer"]))
    ]
    for name, reward in judges.content.items():
        tried = probe(reward, cases, probes, name=name, content=True)
        found[f"reward.{name}"] = plain(tried)
        if not isinstance(reward, Model):
            refuse_hackable(tried, probes)
    return found


def _is_said_anyway(answer: str) -> bool:
    """Whether the tricks' own fixed texts hold the answer ("10/10" where 10 is right): there they prove nothing."""
    blank = ProbeCase(Item("", ""), "", "")
    said = words(" ".join(PROBES[name](blank) for name in ("verdict_text", "orders_the_judge")))
    return any(word in said for word in words(answer))


def _kind(spec: str | Mapping[str, Any]) -> str:
    return spec if isinstance(spec, str) else str(spec.get("kind", ""))
