"""Every suite in the folder: items that are unique, typed and checkable, and a version that stands for them."""

import pytest

from rung.base.lookup import known, lookup, part
from rung.base.settings import Settings
from rung.evaluate.item_set import check_items, version_of
from rung.records.types import TestItem
from rung.scoring.checks import run_checks

NAMES = known("evaluate.suites")


@pytest.fixture(params=NAMES)
def suite(request):
    kind, settings = part("evaluate.suites", request.param)
    assert issubclass(kind.Settings, Settings)
    return kind(settings)


def test_items_are_records_without_repeats(suite):
    items = suite.items()
    assert items
    assert all(isinstance(item, TestItem) and item.type and item.family for item in items)
    check_items(items)
    assert suite.items() == items


def test_the_version_is_that_of_the_items(suite):
    assert suite.version == version_of(suite.items()) != version_of(suite.items()[1:])


def test_references_pass_and_empty_answers_fail(suite):
    for item in suite.items():
        assert run_checks(item, item.reference).passed, item.id
        assert not run_checks(item, "").passed, item.id


@pytest.mark.parametrize("name", NAMES)
def test_fewer_items_can_be_chosen_by_seed(name):
    kind = lookup("evaluate.suites", name)
    chosen = kind(kind.Settings(count=20, seed=1)).items()
    assert len(chosen) == 20
    assert chosen == kind(kind.Settings(count=20, seed=1)).items()
