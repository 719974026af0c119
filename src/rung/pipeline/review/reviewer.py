"""The promise of a reviewer: it is handed a question as text and hands back a text, or says why it could not.

A reviewer does not judge its own reply: whether the text is a review at all is decided by `rung.pipeline.review.reply`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rung.base.lookup import part
from rung.pipeline.review.settings import FOLDER, ReviewerSettings
from rung.records.contracts import Completer

__all__ = ["Asked", "OpenCompleter", "Reviewer", "Said", "open_reviewer"]

OpenCompleter = Callable[[str | dict[str, Any]], Completer]


@dataclass(frozen=True, slots=True)
class Asked:
    """One question on its way.

    `text` is the question as JSON, `form` an empty reply as JSON, `form_file` where a person finds it.
    """

    id: str
    text: str
    form: str
    form_file: Path


@dataclass(frozen=True, slots=True)
class Said:
    """What came back, unread. `money` is None where the reviewer does not know what it cost."""

    text: str
    money: float | None = None


class Reviewer(Protocol):
    """A kind of reviewer with its settings; made from them and from a way to open completers (None: there is none)."""

    settings: ReviewerSettings

    def missing(self) -> tuple[str, ...]:
        """What has to be set up before it can be asked; empty when nothing is."""

    def ask(self, asked: Asked) -> Said:
        """The reply.

        Raises:
            ProviderFailed: it failed, or took too long.
            ReviewPending: the answer is not there yet; asking again later picks it up.
        """


def open_reviewer(
    spec: str | dict[str, Any], open_completer: OpenCompleter | None = None, place: str = "review.reviewer"
) -> Reviewer:
    """The reviewer that `spec` (a kind's name, or `{kind: NAME, ...settings}`) describes.

    Raises:
        SettingsError: an unknown kind (the known ones are listed) or a setting that is wrong.
    """
    kind, settings = part(FOLDER, spec, place)
    opened: Reviewer = kind(settings, open_completer)
    return opened
