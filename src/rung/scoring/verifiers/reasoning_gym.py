"""An answer to an item of the package reasoning-gym, judged by that item's own scorer in a process of its own.

The item is named by family, level, seed and index and made anew for judging, so that nothing but the reply comes from
the model. The reply's one final answer counts, and only a full score is a pass: the package gives part marks to
replies that merely contain the answer; they are kept as a component. Families: `apart/gym.py`.

Refuses several different answers and long ones. Abstains when the process fails.
"""

from __future__ import annotations

from rung.base.errors import WorkerLost
from rung.base.settings import Field, Settings
from rung.records.contracts import Score
from rung.scoring.apart.client import Overrun, shared
from rung.scoring.apart.gym import FAMILIES
from rung.scoring.final_segments import final_segments
from rung.scoring.verifier import Verifier, abstain, verdict

__all__ = ["ReasoningGym"]

_MARKS = "\"'`*_$ \t\n"
_LONGEST = 500
_SECONDS = 10.0


class ReasoningGymSettings(Settings):
    """Which item."""

    family: str = Field(pattern=f"^({'|'.join(FAMILIES)})$", description="the package's name of the kind of item")
    seed: int = Field(ge=0, description="seed of the family's items")
    index: int = Field(ge=0, lt=100_000, description="which of them")
    level: int = Field(default=1, ge=1, le=5, description="level of the family's curriculum")


class ReasoningGym(Verifier[ReasoningGymSettings]):
    """Whether the item's own scorer gives full marks."""

    Settings = ReasoningGymSettings
    INSTRUCTION = "Spell this word backward (example: sun -> nus): how"
    EXAMPLES = (
        ({"family": "spell_backward", "seed": 3, "index": 0}, "hwo", False),
        ({"family": "spell_backward", "seed": 3, "index": 0}, "The word 'how' backward is woh, I think.", False),
        ({"family": "spell_backward", "seed": 3, "index": 0}, "**woh**.", True),
        ({"family": "gcd", "seed": 3, "index": 0}, "Answer: 2\nAnswer: 3", False),
        ({"family": "gcd", "seed": 3, "index": 0}, "Let me see. The answer is 2.", True),
        ({"family": "gcd", "seed": 3, "index": 0}, "1, 2, 3", False),
    )

    def judge(self, instruction: str, reply: str) -> Score:
        """See the module."""
        said = {text.strip(_MARKS).rstrip(".").strip(_MARKS) for text in final_segments(reply)}
        text = said.pop()
        if said or not text or len(text) > _LONGEST:
            return verdict(False, "no single short answer")
        try:
            found = shared("gym").call({**self.settings.model_dump(), "reply": text}, _SECONDS)
        except Overrun as overrun:
            return verdict(False, str(overrun))
        except WorkerLost as lost:
            return abstain(lost.message)
        full = float(found["score"] >= 1.0)
        return Score(full, f"own scorer: {found['score']:g}", {"own_score": found["score"]})
