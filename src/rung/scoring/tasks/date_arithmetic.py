"""Days of the week, days between dates, and dates some days before or after another.

Difficulty 1 counts days of the week forward, 2 also backward, 3 adds days to a date within a year, 4 asks for the days
between two dates, 5 crosses years and leap days. Dates are written as 2024-03-05; `final_answer` judges.
"""

from __future__ import annotations

import datetime
import random

from rung.scoring.task import Generated, Question, TaskSettings

__all__ = ["DateArithmetic"]

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class DateArithmeticSettings(TaskSettings):
    """How hard."""


class DateArithmetic(Generated[DateArithmeticSettings]):
    """Dates to be computed."""

    Settings = DateArithmeticSettings

    def draw(self, rng: random.Random) -> Question:
        """One question of the kinds that the difficulty allows."""
        return rng.choice(_KINDS[self.settings.difficulty])(rng, self.settings.difficulty)


def _weekday(rng: random.Random, difficulty: int) -> Question:
    start, days = rng.randrange(7), rng.randint(1, 6 if difficulty == 1 else 60)
    back = difficulty > 1 and rng.random() < 0.5
    answer = _DAYS[(start - days if back else start + days) % 7]
    when = f"was it {days} days ago" if back else f"will it be in {days} days"
    instruction = f"Today is {_DAYS[start]}. What day of the week {when}? Answer with the day only."
    check = {"final_answer": {"answer": answer}}
    return Question(instruction, answer, check, instruction, "text", tuple(d for d in _DAYS if d != answer))


def _shifted(rng: random.Random, difficulty: int) -> Question:
    start = _date(rng, difficulty)
    days = rng.choice((-1, 1)) * rng.randint(2, 20 if difficulty == 3 else 90)
    answer = start + datetime.timedelta(days=days)
    when = f"{abs(days)} days {'after' if days > 0 else 'before'} {start}"
    instruction = f"Which date is {when}? Answer with the date only, written like 2024-03-05."
    near = tuple(str(answer + datetime.timedelta(days=off)) for off in (1, -1, 30))
    return Question(instruction, str(answer), {"final_answer": {"answer": str(answer)}}, when, "text", near)


def _between(rng: random.Random, difficulty: int) -> Question:
    start = _date(rng, difficulty)
    days = rng.randint(2, 60 if difficulty == 4 else 400)
    instruction = (
        f"How many days after {start} is {start + datetime.timedelta(days=days)}? Answer with the number only."
    )
    check = {"final_answer": {"answer": str(days), "form": "number"}}
    return Question(instruction, str(days), check, instruction, "number", (str(days + 1), str(days - 1)))


def _date(rng: random.Random, difficulty: int) -> datetime.date:
    first = datetime.date(1999 if difficulty == 5 else 2023, 1, 1)
    return first + datetime.timedelta(days=rng.randrange(365 * (26 if difficulty == 5 else 1)))


_KINDS = {
    1: (_weekday,),
    2: (_weekday,),
    3: (_weekday, _shifted),
    4: (_shifted, _between),
    5: (_shifted, _between),
}
