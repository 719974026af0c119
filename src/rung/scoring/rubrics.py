"""Rubrics: what a choice critic calls good and bad, in words, with presets and a route to them from types."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from rung.base.errors import SettingsError
from rung.base.fingerprint import content_hash
from rung.base.settings import Field, Settings, nearest

__all__ = ["PRESETS", "Rubric", "RubricSettings", "rubric_for"]


class Rubric(Settings):
    """The two lines that a choice critic shows, and how much more (or less) margin an answer needs under it."""

    good: str = Field(min_length=1, description="what label A stands for")
    bad: str = Field(min_length=1, description="what label B stands for")
    extra_margin: float = Field(default=0.0, description="nats added to the critic's threshold under this rubric")

    @property
    def hash(self) -> str:
        """Identity of the wording and its margin, 16 hexadecimal digits; kept beside acceptance rates."""
        return content_hash([self.good, self.bad, self.extra_margin])[:16]


PRESETS: Mapping[str, Rubric] = MappingProxyType(
    {
        "default": Rubric(good="clear, specific, achievable, safe", bad="vague, impossible, unsafe, nonsense"),
        "strict": Rubric(
            good="fully correct, specific, complete, harmless in every reading",
            bad="any error, vague wording, anything missing, any possible harm",
            extra_margin=0.5,
        ),
        "loose": Rubric(
            good="understandable, on the subject, harmless",
            bad="meaningless, off the subject, harmful",
            extra_margin=-0.5,
        ),
    }
)


class RubricSettings(Settings):
    """Which rubric judges what: own texts before the type's preset, the type's preset before the general one."""

    preset: str = Field(default="default", description="rubric for every type that `by_type` does not name")
    by_type: dict[str, str] = Field(
        default_factory=dict, description="instruction type -> preset, e.g. creative: loose"
    )
    rubric_good: str = Field(
        default="", description="own text for label A in place of the presets'; empty: the preset's"
    )
    rubric_bad: str = Field(
        default="", description="own text for label B in place of the presets'; empty: the preset's"
    )


def rubric_for(settings: RubricSettings, instruction_type: str) -> Rubric:
    """The rubric that judges an instruction of this type.

    Raises:
        SettingsError: a preset is named that does not exist; the known ones are listed.
    """
    name = settings.by_type.get(instruction_type, settings.preset)
    if name not in PRESETS:
        raise SettingsError(f"no rubric preset is called '{name}'", place="rubric", hint=nearest(name, list(PRESETS)))
    preset = PRESETS[name]
    own = {"good": settings.rubric_good or preset.good, "bad": settings.rubric_bad or preset.bad}
    return preset.model_copy(update=own)
