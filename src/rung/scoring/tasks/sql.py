"""Questions about a small table, to be answered with a query; the rows are never shown (`sql` judges on three sets).

Difficulty 1 selects by one condition, 2 counts or sums, 3 sorts and limits, 4 groups, 5 joins two tables. Every set of
rows is drawn so that the reference finds something, and the near misses give another result on at least one of them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from rung.scoring.task import Generated, Question, TaskSettings
from rung.scoring.tasks._words import NAMES, WORDS

__all__ = ["SqlTask"]

_ASK = "Answer with one SQLite query only."
_NUM_DATABASES = 3
_NUM_ROWS = 12


@dataclass(frozen=True, slots=True)
class _Table:
    """A table: who its rows are about, a number that is asked about, and a word that groups them."""

    name: str
    person: str
    number: str
    group: str
    groups: tuple[str, ...]
    largest: int


_TABLES = (
    _Table("workers", "name", "age", "city", ("Oslo", "Lima", "Cairo", "Kyoto"), 70),
    _Table("orders", "buyer", "price", "item", WORDS[:4], 90),
    _Table("pets", "owner", "weight", "animal", ("cat", "dog", "horse", "rabbit"), 60),
    _Table("runs", "runner", "minutes", "club", ("north", "south", "east", "west"), 99),
    _Table("books", "author", "pages", "shelf", ("red", "blue", "green", "black"), 400),
)


class SqlTaskSettings(TaskSettings):
    """How hard."""


class SqlTask(Generated[SqlTaskSettings]):
    """Questions in words, answered by queries."""

    Settings = SqlTaskSettings

    def draw(self, rng: random.Random) -> Question:
        """One question on one table."""
        table = rng.choice(_TABLES)
        makers = {1: _select, 2: _aggregate, 3: _sort, 4: _group, 5: _join}
        words, query, wrong = makers[self.settings.difficulty](rng, table)
        joined = self.settings.difficulty == 5
        tables = f"CREATE TABLE {table.name} ({table.person} TEXT, {table.number} INTEGER, {table.group} TEXT);"
        if joined:
            tables += f" CREATE TABLE bosses ({table.group} TEXT, boss TEXT);"
        rows = [_rows(rng, table, joined) for _ in range(_NUM_DATABASES)]
        return Question(
            f"{tables} {words} {_ASK}",
            query,
            {"sql": {"tables": tables, "rows": rows, "query": query}},
            query,
            "code",
            (*wrong, f"SELECT * FROM {table.name}"),
        )


def _rows(rng: random.Random, table: _Table, joined: bool) -> str:
    """Different numbers in every row, so that no order is left open; each group stands in some row."""
    numbers = rng.sample(range(1, table.largest + 1), _NUM_ROWS)
    groups = [*table.groups, *rng.choices(table.groups[1:], k=_NUM_ROWS - len(table.groups))]
    names = rng.sample(NAMES, _NUM_ROWS)
    shown = [f"('{one}', {two}, '{three}')" for one, two, three in zip(names, numbers, groups, strict=True)]
    text = f"INSERT INTO {table.name} VALUES {', '.join(shown)};"
    if joined:
        bosses = zip(table.groups, rng.sample(NAMES, len(table.groups)), strict=True)
        text += f" INSERT INTO bosses VALUES {', '.join(f'({group!r}, {boss!r})' for group, boss in bosses)};"
    return text


_Made = tuple[str, str, tuple[str, ...]]


def _select(rng: random.Random, table: _Table) -> _Made:
    shown, group = rng.choice((table.person, table.number)), rng.choice(table.groups)
    limit = rng.randint(table.largest // 4, table.largest // 2)
    words, condition, other = rng.choice(
        (
            (f"{table.group} '{group}'", f"{table.group} = '{group}'", f"{table.group} <> '{group}'"),
            (f"{table.number} above {limit}", f"{table.number} > {limit}", f"{table.number} < {limit}"),
            (f"{table.number} below {limit}", f"{table.number} < {limit}", f"{table.number} > {limit}"),
        )
    )
    query = f"SELECT {shown} FROM {table.name} WHERE {condition}"
    wrong = (query.replace(condition, other), query.replace("SELECT", "SELECT 1,"))
    return f"Which {shown} values have {words}?", query, wrong


def _aggregate(rng: random.Random, table: _Table) -> _Made:
    limit = rng.randint(table.largest // 4, table.largest // 2)
    word, function = rng.choice((("the sum", "SUM"), ("the largest", "MAX"), ("the average", "AVG")))
    rest = f"FROM {table.name} WHERE {table.number} > {limit}"
    query = f"SELECT {function}({table.number}) {rest}"
    wrong = (f"SELECT COUNT({table.number}) {rest}", query.replace(">", "<"), f"SELECT {table.number} {rest}")
    return f"What is {word} {table.number} over rows with {table.number} above {limit}?", query, wrong


def _sort(rng: random.Random, table: _Table) -> _Made:
    count, word, how = rng.randint(2, 6), *rng.choice((("largest", "DESC"), ("smallest", "ASC")))
    query = f"SELECT {table.person} FROM {table.name} ORDER BY {table.number} {how} LIMIT {count}"
    other = query.replace(how, "ASC" if how == "DESC" else "DESC")
    asked = f"Which {table.person} values have the {count} {word} {table.number}, the {word} first?"
    return asked, query, (other, query.replace(f"LIMIT {count}", f"LIMIT {count + 1}"))


def _group(rng: random.Random, table: _Table) -> _Made:
    function, word = rng.choice((("MAX", "largest"), ("MIN", "smallest"), ("SUM", "total")))
    limit = rng.randint(1, table.largest // 2)
    rest = f"FROM {table.name} WHERE {table.number} > {limit}"
    query = f"SELECT {table.group}, {function}({table.number}) {rest} GROUP BY {table.group}"
    wrong = (f"SELECT {table.group}, COUNT(*) {rest} GROUP BY {table.group}", query.rpartition(" GROUP")[0])
    asked = f"For rows with {table.number} above {limit}, give each {table.group} with its {word} {table.number}."
    return asked, query, wrong


def _join(rng: random.Random, table: _Table) -> _Made:
    limit = rng.randint(table.largest // 4, table.largest // 2)
    query = (
        f"SELECT {table.person}, boss FROM {table.name} JOIN bosses USING ({table.group}) "
        f"WHERE {table.number} > {limit}"
    )
    wrong = (query.replace(">", "<"), query.replace(f"JOIN bosses USING ({table.group})", "JOIN bosses"))
    return (
        f"Give each {table.person} with {table.number} above {limit} and the boss of their {table.group}.",
        query,
        wrong,
    )
