"""Settings and the folder registry: errors that name path, value and fix."""

from __future__ import annotations

import pytest

from rung.base.errors import SettingsError
from rung.base.lookup import known, lookup, part
from rung.base.settings import Field, Settings, validate


class Inner(Settings):
    rank: int = Field(16, ge=1, le=512)


class Outer(Settings):
    rate: float = Field(1e-4, gt=0)
    adapter: Inner = Inner()


def test_defaults_apply_and_values_are_frozen() -> None:
    made = validate(Outer, {"rate": 0.5}, "sft")
    assert (made.rate, made.adapter.rank) == (0.5, 16)
    with pytest.raises(Exception, match="frozen"):
        made.rate = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "place", "words"),
    [
        ({"raet": 1}, "sft.raet", "did you mean 'rate'"),
        ({"rate": -1}, "sft.rate", "greater than 0"),
        ({"rate": "fast"}, "sft.rate", "'fast'"),
        ({"rate": float("nan")}, "sft.rate", "finite"),
        ({"adapter": {"rnk": 4}}, "sft.adapter.rnk", "did you mean 'rank'"),
        ({"adapter": {"rank": 0}}, "sft.adapter.rank", "got 0"),
    ],
)
def test_a_bad_value_names_place_and_fix(values: dict, place: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        validate(Outer, values, "sft")
    assert caught.value.place == place
    assert words in str(caught.value)


def test_every_problem_is_listed() -> None:
    with pytest.raises(SettingsError, match=r"(?s)rate.*also sft\.adapter\.rank"):
        validate(Outer, {"rate": -1, "adapter": {"rank": 0}}, "sft")


def test_lookup_takes_the_one_public_name() -> None:
    assert lookup("records.chat", "frame").__name__ == "Frame"
    assert "frame" in known("records.chat")


def test_an_unknown_part_lists_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="did you mean 'frame'"):
        lookup("records.chat", "frmae", "recipe.format")


def test_a_users_own_class_loads_by_dotted_name() -> None:
    assert lookup("records.chat", "fractions:Fraction").__name__ == "Fraction"
    with pytest.raises(SettingsError, match="cannot import"):
        lookup("records.chat", "no_such_module_here:Thing")
    with pytest.raises(SettingsError, match="did you mean 'Fraction'"):
        lookup("records.chat", "fractions:Fracton")


def test_a_part_needs_its_kind() -> None:
    with pytest.raises(SettingsError, match="needs a 'kind'"):
        part("scoring.judges", {"threshold": 1.0}, "bootstrap.critic")
