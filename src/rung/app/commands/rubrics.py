"""`rung rubrics`: two wordings of a rubric over one labelled set."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from rung.app.commands.chat import source_of
from rung.app.rubrics import rubric_settings, view
from rung.engine.engine import Engine
from rung.engine.settings import EngineSettings
from rung.models.load import load
from rung.scoring.judges.choice import ChoiceCritic
from rung.scoring.known_pairs import known_pairs
from rung.scoring.rubric_comparison import compare_rubrics, labelled_from, read_labelled

__all__ = ["rubrics"]


def rubrics(
    runs: Path, model: str, wordings: tuple[str, str], labelled: Path | None, consoles: tuple[Console, Console]
) -> None:
    """Judge the labelled answers under both wordings and print how they differ.

    Args:
        runs: folder of runs.
        model: a source such as `package:NAME`, or a stage that trained.
        wordings: presets, or YAML files with `good` and `bad`.
        labelled: JSON lines; None: the shipped known pairs, each with one corruption.
        consoles: where the table goes, and where everything else goes.

    Raises:
        SettingsError: a wording that is neither a preset nor a file of that shape; before the model is opened.
        DataError: a labelled line that cannot be read.
    """
    settings = [rubric_settings(name) for name in wordings]
    answers = labelled_from(known_pairs(), seed=0) if labelled is None else read_labelled(labelled)
    source, (out, notes) = source_of(runs, model), consoles
    with notes.status(f"judging {len(answers)} answers twice with {source}"):
        engine = Engine(load(source, clean=False, strict=False), EngineSettings(num_slots=1))
        first, second = (ChoiceCritic(one, engine) for one in settings)
        found = compare_rubrics(first, second, answers, wordings)
    out.print(view(found))
