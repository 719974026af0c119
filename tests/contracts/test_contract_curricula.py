"""Every measure of difficulty in the folder keeps the same promises; a new file arrives tested."""

from __future__ import annotations

import inspect

import pytest

from rung.base.lookup import known, lookup, part
from rung.train.curriculum import CurriculumSettings, Shown

FOLDER = "train.curricula"
NAMES = known(FOLDER)
CASES = [(name, index) for name in NAMES for index in range(len(lookup(FOLDER, name).EXAMPLES))]


def nothing() -> list[float]:
    """For one that must not measure."""
    raise AssertionError("the network is asked for")


@pytest.mark.parametrize(("name", "index"), CASES)
def test_examples_come_out_as_written(name: str, index: int) -> None:
    settings, trained, losses, expected = lookup(FOLDER, name).EXAMPLES[index]
    kind, own = part(FOLDER, {"kind": name, **settings})
    shown = Shown(trained, (lambda: losses) if kind.measures else nothing)
    assert kind(own).difficulties(shown) == pytest.approx(expected)


@pytest.mark.parametrize("name", NAMES)
def test_shape_of_a_curriculum(name: str) -> None:
    kind = lookup(FOLDER, name)
    assert issubclass(kind.Settings, CurriculumSettings)
    assert all(field.description for field in kind.Settings.model_fields.values())
    assert kind.EXAMPLES
    assert inspect.getmodule(kind).__doc__


@pytest.mark.parametrize("name", NAMES)
def test_the_place_of_an_example_says_nothing(name: str) -> None:
    """The same examples in another order have the same difficulties."""
    trained, losses = [[5, 5, 7], [9, 5], [7, 7, 7, 9, 5]], [0.5, 2.0, 1.0]
    kind, own = part(FOLDER, name)
    plain = list(kind(own).difficulties(Shown(trained, lambda: losses)))
    turned = list(kind(own).difficulties(Shown(trained[::-1], lambda: losses[::-1])))
    assert turned[::-1] == pytest.approx(plain)
    assert len(set(plain)) == 3
