"""Who judges a policy: the mix of rewards, the verifier, the hidden one; and what they must show before any spending.

A verifier that can be fooled is not earned by, a reward about content that rises with stuffing is refused, and code is
run nowhere but in a sandbox that reaches its floor. What was found goes into the manifest's calibration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rung.base.errors import SettingsError
from rung.base.events import Events
from rung.base.fingerprint import plain
from rung.base.lookup import part
from rung.base.settings import nearest
from rung.records.contracts import Item, Score, Scorer, Trace
from rung.records.types import from_plain
from rung.scoring.hacking import PROBES, HackingSettings, ProbeCase, probe, refuse_hackable
from rung.scoring.hidden import HiddenSettings, HiddenWatch, Observation
from rung.scoring.mixing import Mix, MixSettings, Ranged
from rung.scoring.reading import words
from rung.scoring.remembered import Remembered
from rung.scoring.reward import Lent
from rung.scoring.rewards.verified import Verified
from rung.scoring.sandbox.ladder import climb
from rung.scoring.sandbox.settings import SandboxSettings
from rung.scoring.stress import StressSettings, require_strong, stress

__all__ = ["Hidden", "Judges", "Watched", "build_judges", "prove_judges"]

_ANSWER = "{answer}"


@dataclass(frozen=True)
class Judges:
    """What rewards, and what says right or wrong. Where the verifier is a part of the mix it is one object: an answer
    is judged once. `content` are the parts that are about what an answer says, by name."""

    mix: Mix
    accuracy: Ranged
    content: Mapping[str, Ranged]


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


def build_judges(settings: MixSettings, accuracy: str, lent: Lent | None = None) -> Judges:
    """The mix, and the part of it called `accuracy` (empty: its first `verified`, or the items' own checks).

    Raises:
        SettingsError: a reward, setting or part that does not exist, or one that needs what is not lent.
    """
    kinds = {name: _kind(own.reward) for name, own in settings.parts.items()}
    verified = [name for name, kind in kinds.items() if kind == "verified"]
    chosen = accuracy or (verified[0] if verified else "")
    if accuracy and accuracy not in settings.parts:
        raise SettingsError(f"no reward is called '{accuracy}'", place="accuracy", hint=nearest(accuracy, list(kinds)))
    built, content = dict[str, Ranged](), dict[str, Ranged]()
    for name, own in settings.parts.items():
        spec = own.reward if isinstance(own.reward, str) else dict(own.reward)
        kind, values = part("scoring.rewards", spec, f"rewards.parts.{name}.reward")
        built[name] = Remembered(kind(values, lent or Lent())) if name == chosen else kind(values, lent or Lent())
        if kind.CONTENT:
            content[name] = built[name]
    says = built[chosen] if chosen else Remembered(Verified(Verified.Settings()))
    return Judges(Mix(settings, built), says, content)


def prove_judges(
    judges: Judges, items: Sequence[Item], tries: StressSettings, probes: HackingSettings, sandbox: SandboxSettings
) -> dict[str, Any]:
    """Try verifier and rewards on items with known answers; what was found, for the manifest.

    Raises:
        GateFailed: the verifier is not strong, or a reward about content rises with tricks.
        SandboxRefused: answers are programs and nothing here reaches the sandbox's floor.
    """
    found: dict[str, Any] = {}
    if any("code" in item.reference.get("checks", {}) for item in items):
        chosen = climb(sandbox)
        chosen.sandbox.close()
        found["sandbox"] = plain(chosen.record())
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
        refuse_hackable(tried, probes)
    return found


def _is_said_anyway(answer: str) -> bool:
    """Whether the tricks' own fixed texts hold the answer ("10/10" where 10 is right): there they prove nothing."""
    blank = ProbeCase(Item("", ""), "", "")
    said = words(" ".join(PROBES[name](blank) for name in ("verdict_text", "orders_the_judge")))
    return any(word in said for word in words(answer))


def _kind(spec: str | Mapping[str, Any]) -> str:
    return spec if isinstance(spec, str) else str(spec.get("kind", ""))
