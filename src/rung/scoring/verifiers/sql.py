"""A query whose result must be that of the reference, on several small databases that the model has not seen.

The reply is one statement, in a code block or alone. Both queries run on fresh in-memory databases of sqlite with the
same rows: reading only (an authorizer denies everything else, and functions that are not listed), with limits on
steps, rows and lengths. Rows are compared as a multiset, in order when the reference sorts; columns by position,
numbers by value. Several sets of rows keep a query that merely states the answer from passing.

Refuses what fails, writes, or takes too many steps. Abstains when the reference itself fails.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from typing import Any

from rung.base.settings import Field, Settings
from rung.records.contracts import Score
from rung.scoring.final_segments import block
from rung.scoring.verifier import Verifier, abstain, verdict

__all__ = ["Sql"]

_READING = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE})
_FUNCTIONS = frozenset(
    "count sum total avg min max abs round length lower upper substr substring trim ltrim rtrim replace coalesce "
    "ifnull nullif iif instr like glob group_concat date strftime julianday row_number rank dense_rank lag lead".split()
)
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 100_000,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 100_000,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 20,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 100,
}
_STEPS_PER_CALL = 1000
_MOST_ROWS = 5000
_LONGEST = 4000


class SqlSettings(Settings):
    """The databases and the right query."""

    tables: str = Field(min_length=1, description="statements that create the tables")
    rows: tuple[str, ...] = Field(min_length=1, description="statements that fill them, one text per database")
    query: str = Field(min_length=1, description="the reference query")
    steps: int = Field(default=2_000_000, ge=1000, description="steps of sqlite's machine for one query")


_PEOPLE = {
    "tables": "CREATE TABLE people (name TEXT, age INTEGER);",
    "rows": [
        "INSERT INTO people VALUES ('Ada', 31), ('Ben', 20), ('Cem', 25);",
        "INSERT INTO people VALUES ('Dot', 19), ('Eli', 44);",
    ],
    "query": "SELECT name FROM people WHERE age > 21",
}
_SORTED = {**_PEOPLE, "query": "SELECT name FROM people ORDER BY age"}


class Sql(Verifier[SqlSettings]):
    """Whether the reply's query gives the reference's result."""

    Settings = SqlSettings
    INSTRUCTION = "Write the query."
    EXAMPLES = (
        (_PEOPLE, "SELECT 'Ada' UNION SELECT 'Cem'", False),
        (_PEOPLE, "```sql\nselect name from people where not age <= 21 order by name desc;\n```", True),
        (_PEOPLE, "SELECT name, age FROM people WHERE age > 21", False),
        (_PEOPLE, "SELECT name FROM people; DROP TABLE people", False),
        (_PEOPLE, "DELETE FROM people WHERE age <= 21 RETURNING name", False),
        (_PEOPLE, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n", False),
        (_PEOPLE, "SELECT load_extension('x')", False),
        (_PEOPLE, "ATTACH DATABASE 'x.db' AS x", False),
        (_SORTED, "SELECT name FROM people ORDER BY age DESC", False),
        (_SORTED, "SELECT name FROM people ORDER BY age ASC", True),
        ({**_PEOPLE, "query": "SELECT nothing FROM people"}, "SELECT name FROM people", None),
    )

    def judge(self, instruction: str, reply: str) -> Score:
        """See the module."""
        text = block(reply)
        if not text or len(text) > _LONGEST:
            return verdict(False, "no single query")
        sorted_too = _sorts(self.settings.query)
        for rows in self.settings.rows:
            try:
                wanted = self._run(rows, self.settings.query)
            except sqlite3.Error as error:
                return abstain(f"the reference fails: {error}")
            try:
                found = self._run(rows, text)
            except (sqlite3.Error, sqlite3.Warning, OverflowError, ValueError) as error:
                return verdict(False, f"fails: {error}"[:200])
            if found != wanted if sorted_too else Counter(found) != Counter(wanted):
                return verdict(False, f"{len(found)} rows {str(found[:2])[:80]}, wanted {len(wanted)}")
        return verdict(True, f"the same result on {len(self.settings.rows)} databases")

    def _run(self, rows: str, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query on a fresh database, numbers in one form."""
        connection = sqlite3.connect(":memory:")
        try:
            connection.execute("PRAGMA temp_store = MEMORY")
            connection.executescript(self.settings.tables + rows)
            for limit, value in _LIMITS.items():
                connection.setlimit(limit, value)
            left = [self.settings.steps // _STEPS_PER_CALL]

            def out_of_steps() -> bool:
                """Whether the query has used up its steps."""
                left[0] -= 1
                return left[0] < 0

            connection.set_authorizer(_allowed)
            connection.set_progress_handler(out_of_steps, _STEPS_PER_CALL)
            found = connection.execute(query).fetchmany(_MOST_ROWS + 1)
        finally:
            connection.close()
        if len(found) > _MOST_ROWS:
            raise ValueError(f"more than {_MOST_ROWS} rows")
        return [tuple(map(_plain, row)) for row in found]


def _allowed(action: int, first: str | None, second: str | None, database: str | None, source: str | None) -> int:
    if action == sqlite3.SQLITE_FUNCTION:
        return sqlite3.SQLITE_OK if (second or "").lower() in _FUNCTIONS else sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_READ and (first or "").lower().startswith("sqlite_"):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY


def _plain(value: Any) -> Any:
    """2 and 2.0 are one value; floats are compared to nine digits."""
    return float(f"{value:.9g}") if isinstance(value, (int, float)) else value


def _sorts(query: str) -> bool:
    """Whether the outermost query has an ORDER BY."""
    outer, before = query, ""
    while outer != before:
        outer, before = re.sub(r"\([^()]*\)", " ", outer), outer
    return bool(re.search(r"\border\s+by\b", outer, re.I))
