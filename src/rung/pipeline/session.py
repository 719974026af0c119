"""What one run of a recipe shares between its stages."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rung.base.errors import StorageError
from rung.base.events import Sink
from rung.base.fingerprint import Code, code
from rung.pipeline.identity import Identity
from rung.pipeline.interrupt import StopRequest
from rung.pipeline.ledger import Ledger
from rung.pipeline.ranks import Together
from rung.pipeline.rates import Rates
from rung.pipeline.recipe import Recipe
from rung.pipeline.review.reviewer import OpenCompleter
from rung.pipeline.stage import Models
from rung.records.manifest import Opened

__all__ = ["Options", "Session", "storage_named"]

_REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO}


@dataclass(frozen=True)
class Options:
    """What the command line decides, and what only the app knows.

    `rebuild` and `force` name stages. `identify_model` turns a model source into what it is, wherever it lies.
    `environment` adds to what rung can see without torch. `code` stands in for rung's own provenance. `rates` are what
    estimates rest on. `open_completer` opens models for reviewers that are models. `shards` names stages of which only
    these shards are to be made here. `worker_models` is the `module:Class` that keeps the models of a worker process.
    `together` are the ranks that this process is the first of.
    """

    rebuild: frozenset[str] = frozenset()
    force: frozenset[str] = frozenset()
    allow_dirty: bool = False
    sinks: tuple[Sink, ...] = ()
    identify_model: Callable[[str], str] = str
    environment: Mapping[str, str] = field(default_factory=dict)
    code: Code | None = None
    rates: Rates = field(default_factory=Rates)
    open_completer: OpenCompleter | None = None
    shards: Mapping[str, frozenset[int]] = field(default_factory=dict)
    worker_models: str = ""
    together: Together | None = None


@dataclass(frozen=True)
class Session:
    """One run under way. `opened` fills with the checked outputs of the stages so far, by name."""

    recipe: Recipe
    folder: Path
    models: Models
    options: Options
    stop: StopRequest
    ledger: Ledger
    sinks: tuple[Sink, ...]
    identities: Mapping[str, Identity]
    opened: dict[str, Opened] = field(default_factory=dict)

    @property
    def code(self) -> Code:
        """Provenance that manifests of this run get."""
        return self.options.code or code()


@contextlib.contextmanager
def storage_named(place: str) -> Iterator[None]:
    """Turn the system's refusal to write (full, over quota, read-only) into its named ending; other errors pass.

    Raises:
        StorageError: the disk refused.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        raise StorageError(
            f"the disk refused a write: {error.strerror}",
            place=place,
            hint="free some space and run the same command again",
        ) from error
