"""What a recipe says about a review: who is asked, and what."""

from __future__ import annotations

from typing import Any

from rung.base.settings import Field, Settings

__all__ = ["FOLDER", "QuestionLimits", "ReviewDemand", "ReviewerSettings"]

FOLDER = "pipeline.review.reviewers"


class ReviewerSettings(Settings):
    """What every reviewer's settings have."""

    price: float = Field(0.0, ge=0, description="what one reply costs, where the reviewer does not say it itself")


class QuestionLimits(Settings):
    """How much is sent. What does not fit is left out section by section, and the question says so."""

    characters: int = Field(60_000, ge=1000, le=10_000_000, description="longest question, as JSON")


class ReviewDemand(Settings):
    """The key `review` of a stage: nothing may use the stage's output before a reviewer has approved of it."""

    question: str = Field(
        "Is the method of this stage sound, do its figures support the next stage, and what would you change?",
        min_length=1,
        max_length=4000,
        description="what the reviewer is asked, beside the manifests",
    )
    reviewer: str | dict[str, Any] = Field("person", description="kind of reviewer, or {kind: NAME, ...settings}")
    limits: QuestionLimits = Field(default_factory=QuestionLimits, description="how much of the run is sent")
