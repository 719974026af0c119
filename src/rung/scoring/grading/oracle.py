"""Questions to a solution that runs elsewhere, and what is believed of its answers: that they are its answers.

Each question has a fresh number of 60 bits. The first frame that comes back must bear it; a frame with another number
(one sent before it was asked for, or a second one) voids the run, and so does a frame that holds no plain data.
"""

from __future__ import annotations

import builtins
import json
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rung.base.settings import Field, Settings
from rung.scoring.grading.remote import Remote, let_vouch, number_of, record
from rung.scoring.grading.values import Unacceptable, decode, encode, parse
from rung.scoring.sandbox.contract import Guest, GuestGone, GuestSlow

__all__ = ["OWN_CLASSES", "Oracle", "OracleSettings", "SolutionError", "Unsendable", "Voided"]

_NONCE_BITS = 60
OWN_CLASSES = "task"
"""The module that classes of a task say they are from."""


class OracleSettings(Settings):
    """How much a solution may say."""

    wall_seconds: float = Field(30.0, gt=0, le=3600, description="clock time for all answers together; a backstop")
    max_calls: int = Field(200_000, ge=1, description="questions per solution")
    max_frame_bytes: int = Field(16 << 20, ge=1 << 10, description="length of one answer")
    max_total_bytes: int = Field(64 << 20, ge=1 << 10, description="length of all answers together")


class Voided(BaseException):
    """The run counts for nothing. No `Exception`, so that no test catches it by the way."""


class SolutionError(Exception):
    """The solution raised what is no ordinary exception, such as SystemExit."""


class Unsendable(Exception):
    """A test passes an argument that cannot cross the pipe; the task is at fault, not the solution."""


class Oracle:
    """Asks one guest.

    Args:
        guest: a program that serves `_guest.py`.
        settings: how much it may say.
        wants_changes: bring changes that a call made to its list, dict and set arguments back into them.
        wants_output: write what a call printed to `sys.stdout`.

    Attributes:
        void: why the run counts for nothing; empty while it counts.
        ended: whether the guest is gone or silent.
    """

    def __init__(
        self, guest: Guest, settings: OracleSettings, *, wants_changes: bool = False, wants_output: bool = False
    ) -> None:
        self._guest, self._settings = guest, settings
        self._wants = [wants_changes, wants_output]
        self._deadline = time.monotonic() + settings.wall_seconds
        self._back: list[Callable[..., Any]] = []
        self._errors: dict[tuple[str, ...], type[Exception]] = {}
        self._left_bytes = settings.max_total_bytes
        self._parts: dict[int, int] = {}
        self.num_calls = 0
        self.void = ""
        self.ended = False

    def load(self, given: str, solution: str, wanted: Sequence[str]) -> dict[str, Any]:
        """Run the task's code and the solution there; what stands for each wanted name that they define.

        The first name is what is judged. The others that are written like classes are how a test makes what it expects.
        """
        nonce = self._question("load", [given, solution, list(wanted)], {})
        names = self._answer(nonce, [], "load")
        if not isinstance(names, dict):
            raise self._voided("names are missing")
        found = {name: self._decoded(names[name]) for name in wanted if name in names}
        for name in wanted[1:]:
            if name[:1].isupper() and isinstance(found.get(name), Remote):
                let_vouch(found[name])
        return found

    def ask(self, verb: str, given: Sequence[Any], named: Mapping[str, Any] | None = None) -> Any:
        """The result of one operation over there, as plain data or handles; what it raised is raised.

        Raises:
            Voided: the run counts for nothing from here on.
            Unsendable: an argument cannot be sent.
        """
        self._parts = {}
        sent = [self._encoded(one) for one in given]
        nonce = self._question(verb, sent, {name: self._encoded(one) for name, one in (named or {}).items()})
        return self._answer(nonce, given, verb)

    def finish(self) -> None:
        """See that nothing more was said than was asked for.

        Raises:
            Voided: an answer too many.
        """
        if self._answer(self._question("bool", [True], {}), [], "bool") is not True:
            raise self._voided("a wrong answer to the last question")

    def _question(self, verb: str, given: list[Any], named: Mapping[str, Any]) -> int:
        if self.void or self.ended:
            raise Voided(self.void or "the solution has ended")
        self.num_calls += 1
        if self.num_calls > self._settings.max_calls:
            raise self._voided(f"more than {self._settings.max_calls} calls")
        nonce = secrets.randbits(_NONCE_BITS)
        data = json.dumps([nonce, verb, given, named, *self._wants]).encode()
        self._transported(lambda: self._guest.send(len(data).to_bytes(4, "big") + data))
        return nonce

    def _answer(self, nonce: int, given: Sequence[Any], verb: str) -> Any:
        """The answer to the question of this number; calls back into the test are served first."""
        while True:
            status, body, printed, changed = self._frame(nonce)
            if self._wants[1] and isinstance(printed, str):
                sys.stdout.write(printed)
            if status == "calls":
                self._called(body)
            elif status == "raised":
                raise self._error(body, verb)
            else:
                self._change(given[1:], changed)
                return body if verb == "load" else self._decoded(body)

    def _frame(self, nonce: int) -> tuple[str, Any, Any, Any]:
        length = int.from_bytes(self._received(4), "big")
        self._left_bytes -= length
        if length > self._settings.max_frame_bytes or self._left_bytes < 0:
            raise self._voided("answers longer than allowed")
        data = self._received(length)
        try:
            found = parse(data)
        except Unacceptable as error:
            raise self._voided(str(error)) from error
        if not isinstance(found, list) or len(found) != 5 or type(found[0]) is not int or found[0] != nonce:
            raise self._voided("an answer that was not asked for")
        if found[1] not in ("value", "raised", "calls"):
            raise self._voided("an answer of no known kind")
        return found[1], found[2], found[3], found[4]

    def _received(self, num_bytes: int) -> bytes:
        return bytes(self._transported(lambda: self._guest.receive(num_bytes, self._left_seconds())))

    def _left_seconds(self) -> float:
        return max(0.001, self._deadline - time.monotonic())

    def _transported(self, moved: Callable[[], Any]) -> Any:
        try:
            return moved()
        except (GuestGone, GuestSlow) as error:
            self.ended = True
            raise Voided(f"no answer: {error.message}") from error

    def _voided(self, reason: str) -> Voided:
        self.void = self.void or reason
        return Voided(reason)

    def _called(self, body: Any) -> None:
        """A call of a function that the test passed in."""
        values = self._decoded(["l", *body]) if isinstance(body, list) else []
        if not values or type(values[0]) is not int or not 0 <= values[0] < len(self._back):
            raise self._voided("a call of no known function")
        result = self._back[values[0]](*values[1:])
        self._question("called", [self._encoded(result)], {})

    def _change(self, given: Sequence[Any], changed: Any) -> None:
        if self._wants[0] and isinstance(changed, list) and len(changed) == len(given):
            for old, new in zip(given, self._decoded(["l", *changed]), strict=True):
                _brought_back(old, new)

    def _decoded(self, sent: Any) -> Any:
        try:
            return decode(sent, self._kept)
        except Unacceptable as error:
            raise self._voided(str(error)) from error

    def _kept(self, tag: str, rest: list[Any]) -> Any:
        """What stands for an object that stays over there."""
        number, name, *described = rest
        if type(number) is not int or type(name) is not str:
            raise Unacceptable("a handle without number and name")
        if tag == "r":
            return record(self, number, name, [str(one) for one in described[0]], described[1])
        lineage = described[0]
        return self._error_class(lineage) if lineage else Remote(self, number, name)

    def _error(self, body: Any, verb: str) -> Exception:
        """What was raised over there, as an exception of this side's own.

        Only `next` may say that there is no more: out of a call, that would end `all(map(...))` of a test early.
        """
        if not isinstance(body, list) or len(body) != 2 or type(body[1]) is not str:
            return self._nothing_known()
        kind = self._error_class(body[0])
        if issubclass(kind, (StopIteration, StopAsyncIteration)) and verb != "next":
            return SolutionError(f"{kind.__name__}: {body[1]}")
        try:
            return kind(body[1])
        except TypeError:  # a few exceptions want more than a message
            return SolutionError(f"{kind.__name__}: {body[1]}")

    def _nothing_known(self) -> Exception:
        self._voided("an exception of no known form")
        return SolutionError("an exception of no known form")

    def _error_class(self, lineage: Any) -> type[Exception]:
        if not isinstance(lineage, list) or not lineage or not all(type(one) is str for one in lineage):
            return SolutionError
        key = tuple(one[:100] for one in lineage[:20])
        if key not in self._errors:
            known = [getattr(builtins, one, None) for one in key]
            bases = [one for one in known if isinstance(one, type) and issubclass(one, Exception)]
            base = bases[0] if bases else SolutionError
            self._errors[key] = base if base.__name__ == key[0] else type(key[0], (base,), {})
        return self._errors[key]

    def _encoded(self, value: Any) -> Any:
        try:
            return encode(value, self._other)
        except Unacceptable as error:
            raise Unsendable(str(error)) from error

    def _other(self, value: Any) -> Any:
        """What is sent for a value of the test's that is not plain."""
        if isinstance(value, Remote):
            return ["o", number_of(value, self)]
        if type(value).__module__ == OWN_CLASSES and hasattr(value, "__dict__"):
            return self._part(value)
        if callable(value):
            self._back.append(value)
            return ["k", len(self._back) - 1]
        raise Unsendable(f"a {type(value).__name__} cannot be an argument")

    def _part(self, value: Any) -> Any:
        """An instance of a class of the task's: made anew over there, once however often it is met."""
        place = self._parts.get(id(value))
        if place is not None:
            return ["p", place]
        place = self._parts[id(value)] = len(self._parts)
        attributes = [[name, self._encoded(one)] for name, one in vars(value).items()]
        return ["p", place, type(value).__name__, attributes]


def _brought_back(old: Any, new: Any) -> None:
    """Make a container of the test's what it became over there, in place, as far down as the shapes agree."""
    if type(old) is not type(new):
        return
    if isinstance(old, list) and len(old) == len(new):
        for place, (one, other) in enumerate(zip(list(old), new, strict=True)):
            if type(one) is type(other) and isinstance(one, (list, dict, set)):
                _brought_back(one, other)
            else:
                old[place] = other
    elif isinstance(old, list):
        old[:] = new
    elif isinstance(old, (dict, set)):
        old.clear()
        old.update(new)
