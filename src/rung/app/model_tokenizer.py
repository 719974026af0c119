"""The tokenizer that an output's training examples are read with: that of the model its manifest names.

Imported by name for `rung inspect --masks`, because finding a model's files brings torch; no weights are read.
"""

from __future__ import annotations

from pathlib import Path

from rung.app.runs import Output, outputs_of
from rung.base.errors import DataError, ModelError
from rung.base.lookup import lookup
from rung.models.cache import Cache
from rung.models.published import open_tokenizer, read_config
from rung.records.tokenizer import Tokenizer

__all__ = ["model_tokenizer"]


def model_tokenizer(output: Output, path: Path | None = None) -> Tokenizer:
    """The file at `path`, else the tokenizer of the model in the manifest, else that of a stage it came from.

    Raises:
        DataError: no manifest of the run names a model.
        ModelError: the model or its tokenizer cannot be found.
    """
    if path is not None:
        return Tokenizer.load(path)
    lineage = [output, *reversed(outputs_of(output.folder.parent))]
    sources = [str(o.manifest.model["source"]) for o in lineage if o.manifest.model.get("source")]
    if not sources:
        raise DataError(
            "no stage of this run says which model it used",
            place=output.manifest.name,
            hint="name its tokenizer: --tokenizer FILE/tokenizer.json",
        )
    kind, _, rest = sources[0].partition(":")
    part = lookup("models.sources", kind, "model.source")
    found = part(part.parse(rest), cache=Cache(None)).find()
    if found.folder is not None:
        return open_tokenizer(found.folder, read_config(found.folder)).tokenizer
    if found.make is None:
        raise ModelError(f"'{sources[0]}' has no tokenizer", place=output.manifest.name)
    tokenizer: Tokenizer = found.make().tokenizer
    return tokenizer
