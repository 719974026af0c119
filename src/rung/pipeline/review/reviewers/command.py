"""Any local command as a reviewer: the question goes to its standard input, its standard output is the reply.

An exit code other than 0, silence on standard output and a passed time limit are failures, whatever was printed. The
command is started without a shell and in its own process group, which is ended as a whole.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from typing import ClassVar

from rung.base.errors import ProviderFailed
from rung.base.secrets import redact
from rung.base.settings import Field
from rung.pipeline.review.reviewer import Asked, OpenCompleter, Said
from rung.pipeline.review.settings import ReviewerSettings

__all__ = ["CommandReviewer"]

_SHOWN = 300
_GRACE_SECONDS = 5.0


class CommandReviewerSettings(ReviewerSettings):
    """Which command, and how long it may take."""

    argv: tuple[str, ...] = Field(min_length=1, description="program and arguments; no shell reads them")
    timeout_seconds: float = Field(600.0, gt=0, le=86400, description="after this it is ended, and has failed")


class CommandReviewer:
    """Runs the command once per question."""

    Settings: ClassVar[type[CommandReviewerSettings]] = CommandReviewerSettings

    def __init__(self, settings: CommandReviewerSettings, open_completer: OpenCompleter | None = None) -> None:
        self.settings = settings

    def missing(self) -> tuple[str, ...]:
        """The program, when it is not there."""
        program = self.settings.argv[0]
        return () if shutil.which(program) else (f"the program '{program}' is not found or not executable",)

    def ask(self, asked: Asked) -> Said:
        """What it prints.

        Raises:
            ProviderFailed: it could not be started, failed, said nothing, or took too long.
        """
        process = self._started()
        try:
            out, noise = process.communicate(asked.text.encode(), timeout=self.settings.timeout_seconds)
        except subprocess.TimeoutExpired as error:
            raise _failed(f"no reply after {self.settings.timeout_seconds:g} s") from error
        finally:
            _end(process)
        said, heard = _text(out), noise.decode(errors="replace").strip()
        if process.returncode != 0:
            raise _failed(f"exit code {process.returncode}; it wrote: {(heard or said.strip())[:_SHOWN]}")
        if not said.strip():
            raise _failed(f"nothing on standard output; on standard error: {heard[:_SHOWN] or 'nothing'}")
        return Said(said)

    def _started(self) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        try:
            return subprocess.Popen(self.settings.argv, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
        except OSError as error:
            raise _failed(f"cannot start '{self.settings.argv[0]}': {error.strerror}") from error


def _text(out: bytes) -> str:
    try:
        return out.decode()
    except UnicodeDecodeError as error:
        raise _failed("what it printed is not UTF-8") from error


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the group: a child that the command left behind would hold the pipes, and the session, open for ever."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=_GRACE_SECONDS)


def _failed(why: str) -> ProviderFailed:
    return ProviderFailed(redact(f"the reviewer failed: {why}"), place="review.command", hint="run it by hand to see")
