"""A person, asked through a file: the form is filled in with any editor, and picked up now or at the next call."""

from __future__ import annotations

import time
from typing import ClassVar

from rung.base.errors import DataError, ReviewPending
from rung.base.files import write_text
from rung.base.settings import Field
from rung.pipeline.review.reviewer import Asked, OpenCompleter, Said
from rung.pipeline.review.settings import ReviewerSettings

__all__ = ["PersonReviewer"]


class PersonReviewerSettings(ReviewerSettings):
    """How long the person is waited for."""

    wait_seconds: float = Field(0.0, ge=0, le=604800, description="0: end at once, the same command picks it up later")
    poll_seconds: float = Field(2.0, gt=0, le=600, description="how often the file is looked at while waiting")


class PersonReviewer:
    """Puts an empty form beside the question and reads it once it was changed."""

    Settings: ClassVar[type[PersonReviewerSettings]] = PersonReviewerSettings

    def __init__(self, settings: PersonReviewerSettings, open_completer: OpenCompleter | None = None) -> None:
        self.settings = settings

    def missing(self) -> tuple[str, ...]:
        """Nothing: a person needs no set-up."""
        return ()

    def ask(self, asked: Asked) -> Said:
        """The form as the person left it. The message names it from the run's folder on: no path of this machine.

        Raises:
            ReviewPending: it is still empty.
            DataError: the file is not text.
        """
        if not asked.form_file.is_file():
            write_text(asked.form_file, asked.form)
        until = time.monotonic() + self.settings.wait_seconds
        while (text := _read(asked)) == asked.form:
            left = until - time.monotonic()
            if left <= 0:
                raise ReviewPending(
                    "the review is not filled in yet",
                    place="/".join(asked.form_file.parts[-3:]),
                    hint="fill in this file (the question lies beside it) and run the same command again",
                )
            time.sleep(min(self.settings.poll_seconds, left))
        return Said(text)


def _read(asked: Asked) -> str:
    try:
        return asked.form_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the form: {type(error).__name__}", place=asked.form_file.name) from error
