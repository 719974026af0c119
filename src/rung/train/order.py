"""Which examples each step of a run on fixed data trains on: shuffled anew each epoch, or from easy to hard.

Either way a pure function of the seed, the step and the examples, so a resumed run needs only the step's number and
every rank reads the same. A difficulty that has to be measured is measured before the first step, with the network as
it is then, and kept in `scratch`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from rung.base.events import Events
from rung.base.files import read_json, write_json
from rung.base.fingerprint import content_hash
from rung.base.lookup import part
from rung.models.network import Network
from rung.records.packing import Example, num_steps_per_epoch, pack, step_indices
from rung.train.curriculum import Curriculum, Shown, easy_to_hard
from rung.train.ranks import barrier, is_first
from rung.train.settings import SftSettings
from rung.train.step import text_losses

__all__ = ["DataOrder", "order_of"]

_FILE = "difficulties.json"
_QUANTILES = {"low": 0.1, "median": 0.5, "high": 0.9}


class DataOrder:
    """The order in which `num_examples` are shown.

    Args:
        num_examples: how many there are.
        settings: how many a step reads, how often each is shown, seed and curriculum.
        difficulties: of each example, where a curriculum decides.
    """

    def __init__(self, num_examples: int, settings: SftSettings, difficulties: Sequence[float] = ()) -> None:
        self._num_examples, self._settings = num_examples, settings
        self._difficulties = np.asarray(difficulties, np.float64)
        per_step, epochs = settings.sequences_per_step, settings.epochs
        per_epoch = num_steps_per_epoch(num_examples, per_step)
        self.num_steps = per_epoch * epochs
        if settings.curriculum:
            # as many a step as without one
            sizes = [min(per_step, num_examples - n * per_step) for n in range(per_epoch)] * epochs
            pacing = _curriculum(settings).settings
            self._plan = easy_to_hard(self._difficulties.tolist(), sizes, epochs, pacing, settings.seed)

    def __call__(self, step: int) -> tuple[int, ...]:
        """The examples of step number `step`, counted from 0 over all epochs; none twice."""
        if self._settings.curriculum:
            return self._plan[step].indices
        return step_indices(self._num_examples, self._settings.sequences_per_step, self._settings.seed, step)

    def figures(self, step: int) -> dict[str, float]:
        """With a curriculum: quantiles of the difficulty of a step's examples, and the share it could draw from."""
        if not self._settings.curriculum:
            return {}
        draw = self._plan[step]
        found = np.quantile(self._difficulties[list(draw.indices)], list(_QUANTILES.values()))
        return {**dict(zip(_QUANTILES, found.tolist(), strict=True)), "share": draw.share}


def order_of(
    network: Network,
    texts: Sequence[Sequence[Example]],
    settings: SftSettings,
    *,
    events: Events,
    scratch: Path,
    on_step: Callable[[int], None],
) -> DataOrder:
    """The order of training examples that are texts, or pairs of them of which the first is the better one.

    `on_step` gets the tokens of each row that is read to measure them.
    """
    if not settings.curriculum:
        return DataOrder(len(texts), settings)

    def losses() -> list[float]:
        """Measured once; what a file says is what every rank goes by."""
        identity = content_hash(
            {
                "precision": settings.precision,
                "texts": [[list(one.rendered.token_ids), list(one.rendered.loss_mask)] for own in texts for one in own],
            }
        )
        path = scratch / _FILE
        if not path.is_file() or read_json(path)["identity"] != identity:
            found = _measured(network, texts, settings, events, on_step)
            barrier()  # nobody writes while another still looks whether there is a file
            if is_first():
                scratch.mkdir(parents=True, exist_ok=True)
                write_json(path, {"identity": identity, "losses": found})
            barrier()
        return list(read_json(path)["losses"])

    trained = [[token for one in own for token in _trained(one)] for own in texts]
    difficulties = _curriculum(settings).difficulties(Shown(trained, losses))
    return DataOrder(len(texts), settings, difficulties)


def _curriculum(settings: SftSettings) -> Curriculum:
    kind, own = part("train.curricula", settings.curriculum, "training.curriculum")
    made: Curriculum = kind(own)
    return made


def _trained(example: Example) -> list[int]:
    rendered = example.rendered
    pairs = zip(rendered.token_ids[1:], rendered.loss_mask[1:], strict=True)
    return [token for token, counts in pairs if counts]


def _measured(
    network: Network,
    texts: Sequence[Sequence[Example]],
    settings: SftSettings,
    events: Events,
    on_step: Callable[[int], None],
) -> list[float]:
    """Nats per trained token of each text; of two, the first one's less the second one's."""
    found: dict[str, float] = {}
    rows = pack([one for own in texts for one in own], settings.tokens_per_micro_batch)
    for number, row in enumerate(rows, 1):
        found.update(zip(row.ids, text_losses(network, row, settings.precision), strict=True))
        on_step(len(row.token_ids))
        events.progress("difficulty", number, len(rows), "rows")
    return [found[own[0].id] - sum(found[one.id] for one in own[1:]) for own in texts]
