"""The critic that gates: the written rule applied to the calibration, and its verdict carried into this manifest."""

from __future__ import annotations

from typing import Any

from rung.base.lookup import part
from rung.pipeline.stage import Outputs
from rung.records.contracts import Completer
from rung.records.manifest import Opened
from rung.scoring.calibration import choose
from rung.scoring.calibration_report import CalibrationReport

__all__ = ["chosen_critic"]


def chosen_critic(settings: Any, calibration: Opened, completer: Completer, outputs: Outputs) -> Any:
    """Build the first critic that may gate, at its calibrated threshold (or `settings.critic_threshold`).

    Raises:
        GateFailed: none may gate and `settings.force_critic` names none.
    """
    stored = calibration.manifest.calibration
    reports = [CalibrationReport.model_validate(report) for _, report in sorted(stored.items())]
    chosen = choose(reports, settings.force_critic)
    spec = calibration.manifest.settings["critics"][chosen.index]
    kind, own = part("scoring.judges", spec, "calibrate.critics")
    critic = kind(own, completer)
    threshold = chosen.threshold if settings.critic_threshold is None else settings.critic_threshold
    if threshold is not None:
        critic = critic.with_threshold(threshold)
    outputs.note("calibration", {"chosen": chosen.model_dump(mode="json"), "threshold": threshold,
                                 "reports": [report.model_dump(mode="json") for report in reports]})  # fmt: skip
    return critic
