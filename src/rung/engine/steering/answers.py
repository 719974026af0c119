"""What a sequence that paused may be told, and what it may pause for: the same for whoever runs it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rung.base.errors import DataError, SettingsError
from rung.engine.engine import Intake
from rung.engine.lane import Lane
from rung.engine.steering.park import Parked
from rung.engine.steering.spikes import SpikeSettings
from rung.engine.steering.watch import Limits, Watch
from rung.records.contracts import Completion

__all__ = ["Watcher", "answer_ids", "question_of", "so_far"]


class Watcher:
    """Makes watches for the requests of one model.

    Args:
        intake: the model's.
        clarify: the reserved token that pauses; None: none does.
        spikes: what counts as a spike, to pause there too; None: none does.

    Raises:
        SettingsError: a reserved token that the model does not have, or that ends its texts.
    """

    def __init__(self, intake: Intake, clarify: int | None, spikes: SpikeSettings | None = None) -> None:
        self.clarify, self._spikes, self._others = clarify, spikes, _others(intake, clarify)

    def watch(self, limits: Limits) -> Watch:
        """The watch of one request."""
        return Watch(self.clarify, self._others, self._spikes, limits)


def answer_ids(intake: Intake, lane: Lane, answer: str | Sequence[int], clarify: int | None) -> tuple[int, ...]:
    """The token ids of an answer to a sequence that paused.

    Raises:
        DataError: the answer is empty, too long, or holds ids that it cannot.
    """
    place = f"the answer to '{lane.job.request.id}'"
    ids = tuple(intake.tokenizer.encode(answer)) if isinstance(answer, str) else tuple(answer)
    if not ids:
        raise DataError("it is empty", place=place, hint="None lets the sequence go on without an answer")
    if bad := [token for token in ids if not 0 <= token < intake.vocabulary or token == clarify]:
        raise DataError(f"token {bad[0]} cannot be told", place=place, hint="give ids of the vocabulary's texts")
    wanted = lane.position + 1 + len(ids) + lane.remaining
    if intake.max_context and wanted > intake.max_context:
        raise DataError(
            f"with its {len(ids)} tokens {wanted} are needed, and {intake.max_context} is the limit",
            place=place,
            hint="shorten it",
        )
    num_prompt = len(lane.job.prompt_ids)
    intake.check_room(place, num_prompt, wanted - num_prompt)
    return ids


def question_of(parked: Parked) -> str:
    """What a sequence wrote since it was told something last, without the space around it."""
    lane = parked.lane
    exchanges = lane.job.watch.exchanges if lane.job.watch is not None else []
    start = exchanges[-1].num_drawn if exchanges else 0
    return "".join(token.text for token in lane.tokens(start, lane.shown())).strip()


def so_far(parked: Parked) -> Completion:
    """What a sequence that waits has drawn, as if it ended there."""
    lane = parked.lane
    return Completion(
        id=lane.job.request.id,
        text=lane.shown(),
        raw_text=lane.shown(),
        token_ids=tuple(lane.token_ids),
        finish_reason="stop",
        num_prompt_tokens=len(lane.job.prompt_ids),
        complete=None if lane.state is None else False,
    )


def _others(intake: Intake, clarify: int | None) -> torch.Tensor:
    """All tokens but the reserved one, bool [V]."""
    others_V = torch.ones(intake.vocabulary, dtype=torch.bool)
    if clarify is not None:
        if clarify >= intake.vocabulary or clarify in intake.tokenizer.end_ids:
            raise SettingsError(
                f"token {clarify} cannot pause a sequence",
                place="clarify",
                hint="rung.engine.steering.reserve.reserved finds one that can",
            )
        others_V[clarify] = False
    return others_V
