"""Pairs that belong to another stage: set aside with a reason, in their own output, never silently lost.

The built-in rule sets aside a bare statement answered with a verdict ("True"). A stage with its own scope adds rules
in its recipe: a pattern for the instruction, one for the response, both must match.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pydantic

from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.findings import Finding, Subject, sift
from rung.datagen.heuristics import scope
from rung.records.contracts import FilterResult

__all__ = ["Scope"]


class _Rule(BaseSettings):
    name: str = Field(min_length=1, description="the reason given to what this rule sets aside")
    instruction: str = Field(default="", description="regular expression searched in the instruction")
    response: str = Field(default="", description="regular expression searched in the response")

    @pydantic.field_validator("instruction", "response")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value


class Scope:
    """Sets aside what is out of scope; such drops carry `detail["set_aside"]`."""

    class Settings(BaseSettings):
        """The built-in rule and a stage's own."""

        statements: bool = Field(default=True, description="set aside bare statements answered with a verdict")
        rules: tuple[_Rule, ...] = Field(default=(), description="a stage's own rules, tried in order")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def _find(self, subject: Subject) -> Finding | None:
        if self.settings.statements and (found := scope(subject)):
            return found
        for rule in self.settings.rules:
            asked = re.search(rule.instruction, subject.instruction)
            said = re.search(rule.response, subject.response or "")
            if asked and said:
                span = said.span() if subject.response is not None else asked.span()
                return Finding(rule.name, span)
        return None

    def apply(self, records: Sequence[Any]) -> FilterResult:
        """Keep what is in scope, in order; the rest is marked to be set aside."""
        return sift("scope", records, self._find, set_aside=True)
