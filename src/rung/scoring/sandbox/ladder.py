"""The ladder: the highest rung whose self-test passes here, never one below the floor, or a refusal that says why.

The folder `rungs` is the registry. For rewards, the rung without isolation does not exist.
"""

from __future__ import annotations

from dataclasses import dataclass

from rung.base.lookup import known, lookup
from rung.scoring.sandbox.contract import Sandbox, SandboxRefused
from rung.scoring.sandbox.rung import Rung
from rung.scoring.sandbox.selftest import SelfTest, examine
from rung.scoring.sandbox.settings import SandboxSettings

__all__ = ["Chosen", "climb"]

_FOLDER = "scoring.sandbox.rungs"


@dataclass(frozen=True)
class Chosen:
    """An open sandbox, with why it is this one.

    `passed_over` says for each higher rung what was missing or which probes did not hold.
    """

    sandbox: Sandbox
    rung: str
    selftest: SelfTest
    passed_over: tuple[str, ...]

    def record(self) -> dict[str, object]:
        """For manifests and result files: rung, self-test, and what was passed over."""
        return {
            "rung": self.rung,
            "passed": self.selftest.passed,
            "probes": {finding.probe: finding.held for finding in self.selftest.findings},
            "milliseconds": round(self.selftest.milliseconds, 1),
            "passed_over": list(self.passed_over),
        }


def climb(settings: SandboxSettings, for_rewards: bool = True) -> Chosen:
    """Open the first rung that holds; the caller closes its sandbox.

    Raises:
        SandboxRefused: none that reaches the floor does.
    """
    problems: list[str] = []
    for name, rung in _rungs(settings, for_rewards):
        problem = rung.absent()
        if not problem:
            sandbox = rung.build(settings)
            selftest = examine(name, sandbox)
            if selftest.passed or not rung.SAFE:
                return Chosen(sandbox, name, selftest, tuple(problems))
            sandbox.close()
            problem = "; ".join(selftest.failures)
        problems.append(f"{name}: {problem}")
    raise SandboxRefused(
        f"no way to run programs apart holds here ({' | '.join(problems) or 'none was tried'})",
        place=f"floor {settings.floor}",
        hint="a kernel with user namespaces or Landlock 6; in a container, allow unshare and mount",
    )


def _rungs(settings: SandboxSettings, for_rewards: bool) -> list[tuple[str, Rung]]:
    """From the highest down to the floor; below it only, and only when asked for, the one that is not safe."""
    every = {name: lookup(_FOLDER, name)() for name in known(_FOLDER)}
    floor = every[settings.floor].HEIGHT
    unsafe_too = settings.unsafe_plain_subprocess and not for_rewards
    safe = [(name, rung) for name, rung in every.items() if rung.SAFE and floor <= rung.HEIGHT]
    other = [(name, rung) for name, rung in every.items() if not rung.SAFE and unsafe_too]
    return sorted(safe + other, key=lambda entry: -entry[1].HEIGHT)
