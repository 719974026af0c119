"""`rung rubrics`: two wordings of a rubric over one labelled set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from rung.app.commands.chat import source_of
from rung.base.errors import SettingsError
from rung.base.settings import validate
from rung.engine.engine import Engine
from rung.engine.settings import EngineSettings
from rung.models.load import load
from rung.scoring.calibration_report import Acceptance
from rung.scoring.judges.choice import ChoiceCritic, ChoiceSettings
from rung.scoring.known_pairs import known_pairs
from rung.scoring.rubric_comparison import RubricComparison, compare_rubrics, labelled_from, read_labelled
from rung.scoring.rubrics import PRESETS, Rubric

__all__ = ["rubric_settings", "rubrics", "view"]


def rubrics(
    runs: Path, model: str, wordings: tuple[str, str], labelled: Path | None, out: Console, notes: Console
) -> None:
    """Judge the labelled answers under both wordings and print how they differ.

    Args:
        runs: folder of runs.
        model: a source such as `package:NAME`, or a stage that trained.
        wordings: presets, or YAML files with `good` and `bad`.
        labelled: JSON lines; None: the shipped known pairs, each with one corruption.
        out: where the table goes.
        notes: where everything else goes.

    Raises:
        SettingsError: a wording that is neither a preset nor a file of that shape; before the model is opened.
        DataError: a labelled line that cannot be read.
    """
    settings = [rubric_settings(name) for name in wordings]
    answers = labelled_from(known_pairs(), seed=0) if labelled is None else read_labelled(labelled)
    source = source_of(runs, model)
    with notes.status(f"judging {len(answers)} answers twice with {source}"):
        engine = Engine(load(source, clean=False, strict=False), EngineSettings(num_slots=1))
        first, second = (ChoiceCritic(one, engine) for one in settings)
        found = compare_rubrics(first, second, answers, wordings)
    out.print(view(found))


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
