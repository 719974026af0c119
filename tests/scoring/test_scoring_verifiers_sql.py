"""Queries only read, end in time, and are compared by their results on rows they have not seen."""

import sqlite3

import pytest

from rung.records.contracts import Item, Trace
from rung.scoring.verifiers.sql import Sql

TABLES = "CREATE TABLE t (a INTEGER, b TEXT);"
ROWS = ("INSERT INTO t VALUES (1, 'x'), (2, 'y'), (2, 'z');", "INSERT INTO t VALUES (5, 'x');")


def score(reply, query="SELECT b FROM t WHERE a > 1", rows=ROWS, **settings):
    built = Sql(Sql.Settings(tables=TABLES, rows=rows, query=query, **settings))
    return built.score([Item("i", "Ask.")], [Trace("i", reply)])[0]


def test_one_database_is_not_enough_to_tell_a_guess_from_a_query():
    guess = "SELECT 'y' UNION ALL SELECT 'z'"
    assert score(guess, rows=ROWS[:1]).value == 1.0
    assert score(guess).value == 0.0


def test_repeated_rows_count_and_order_counts_only_where_it_was_asked_for():
    assert score("SELECT DISTINCT a FROM t", "SELECT a FROM t").value == 0.0
    assert score("SELECT a FROM t ORDER BY b DESC", "SELECT a FROM t").value == 1.0
    assert score("SELECT b FROM t ORDER BY b DESC", "SELECT b FROM t ORDER BY b").value == 0.0
    inner = "SELECT b FROM (SELECT b FROM t ORDER BY b)"
    assert score("SELECT b FROM t ORDER BY b DESC", inner).value == 1.0


def test_numbers_are_compared_by_value():
    assert score("SELECT sum(a) * 1.0 FROM t", "SELECT sum(a) FROM t").value == 1.0
    assert score("SELECT '5' FROM t", "SELECT 5 FROM t").value == 0.0


@pytest.mark.parametrize(
    "attack",
    [
        "INSERT INTO t VALUES (9, 'q') RETURNING b",
        "UPDATE t SET a = 0",
        "PRAGMA writable_schema = 1",
        "VACUUM INTO '{folder}/out.db'",
        "ATTACH '{folder}/out.db' AS o",
        "SELECT load_extension('{folder}/x.so')",
        "SELECT sql FROM sqlite_master",
        "SELECT randomblob(1000)",
        "SELECT b FROM t WHERE a > 1; SELECT 1",
        "CREATE TEMP TABLE z AS SELECT 1",
        "EXPLAIN SELECT b FROM t",
    ],
)
def test_anything_but_reading_is_refused_and_leaves_nothing(attack, tmp_path):
    found = score(attack.replace("{folder}", str(tmp_path)))
    assert found.value == 0.0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "heavy",
    [
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
        "SELECT a.a FROM t a, t b, t c, t d, t e, t f, t g, t h, t i, t j, t k, t l, t m, t n, t o",
        "SELECT length(replace(replace(replace(hex(1), '3', '{big}'), '3', '{big}'), '3', '{big}'))",
    ],
)
def test_heavy_queries_end_with_a_reason(heavy):
    assert score(heavy.replace("{big}", "3" * 900), steps=200_000).value == 0.0


def test_steps_are_what_ends_them(monkeypatch):
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 40000) SELECT count(*) FROM n"
    assert "interrupted" in score(endless, "SELECT 40000", steps=20_000).reason
    assert score(endless, "SELECT 40000").value == 1.0


def test_a_broken_reference_abstains():
    assert score("SELECT b FROM t", "SELECT c FROM t").abstained
    assert sqlite3.sqlite_version_info >= (3, 25)  # window functions are in the list of functions
