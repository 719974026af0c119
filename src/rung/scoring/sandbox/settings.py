"""Settings of the sandbox: how low the ladder may go, how many programs at a time, what they may import."""

from __future__ import annotations

from typing import Literal

from rung.base.settings import Field, Settings

__all__ = ["SandboxSettings"]


class SandboxSettings(Settings):
    """How programs are run."""

    floor: Literal["namespaces", "landlock"] = Field(
        "landlock", description="the lowest rung of the ladder that may be used; below it nothing is run"
    )
    slots: int | None = Field(None, ge=1, le=256, description="programs at a time; none: one for each core")
    jobs_per_worker: int = Field(1000, ge=1, description="programs after which a worker is replaced by a fresh one")
    wait_seconds: float = Field(600.0, gt=0, description="longest to wait for a free slot")
    packages: tuple[str, ...] = Field(
        ("numpy",), description="installed packages that programs may import; any other is invisible to them"
    )
    unsafe_plain_subprocess: bool = Field(
        False, description="without any other rung, run programs with no isolation at all; never for rewards"
    )
