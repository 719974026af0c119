"""Rubrics named on the command line, and how two of them compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rung.base.errors import SettingsError
from rung.base.settings import validate
from rung.scoring.calibration_report import Acceptance
from rung.scoring.judges.choice import ChoiceSettings
from rung.scoring.rubric_comparison import RubricComparison
from rung.scoring.rubrics import PRESETS, Rubric

__all__ = ["rubric_settings", "view"]


def rubric_settings(wording: str) -> ChoiceSettings:
    """The choice critic's settings for a preset's name or a YAML file with `good` and `bad`."""
    if wording in PRESETS:
        return ChoiceSettings(preset=wording, allow_unclean_model=True)
    path = Path(wording)
    if not path.is_file():
        raise SettingsError(
            f"'{wording}' is neither a rubric preset nor a file",
            place="rubric",
            hint=f"presets: {', '.join(PRESETS)}; or a YAML file with 'good' and 'bad'",
        )
    try:
        values: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise SettingsError(f"not YAML: {error}", place=wording) from error
    rubric = validate(Rubric, values if isinstance(values, dict) else {}, wording)
    return ChoiceSettings(rubric_good=rubric.good, rubric_bad=rubric.bad, allow_unclean_model=True)


def view(found: RubricComparison) -> RenderableType:
    """Acceptance, precision and recall of each wording with intervals; agreement and paired p-values."""
    table = Table(box=None, padding=(0, 2))
    for column in ("rubric", "accepted", "precision", "recall"):
        table.add_column(column, overflow="fold")
    rows = zip(found.names, found.acceptance, found.precision, found.recall, strict=True)
    for name, *shares in rows:
        table.add_row(Text(name), *[_share(share) for share in shares])
    kappa = "none" if found.kappa is None else f"{found.kappa:.2f}"
    lines = (
        f"{found.num_labelled} labelled answers; equal verdicts {_share(found.agreement)}, kappa {kappa}",
        f"right where the other is wrong: {found.only_first_right} and {found.only_second_right}, "
        f"p {found.p_correct:.2g} (exact McNemar)",
        f"accepted where the other refuses: {found.only_first_accepts} and {found.only_second_accepts}, "
        f"p {found.p_acceptance:.2g}",
    )
    return Group(table, *map(Text, lines))


def _share(share: Acceptance) -> str:
    if not share.num_judged:
        return "none"
    rate = share.num_accepted / share.num_judged
    return f"{rate:.0%} of {share.num_judged} [{share.low:.0%}, {share.high:.0%}]"
