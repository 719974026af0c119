"""`package:NAME`: a model inside an installed Python package, which holds a GGUF file or assembles one.

A package is imported only when it has an `assemble` function and no GGUF file; its own dependencies are not needed.
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from rung.base.errors import MissingDependency, ModelError
from rung.base.settings import Field, Settings
from rung.models.cache import Cache
from rung.models.found import Found
from rung.models.gguf_format.convert import convert, converted, key

__all__ = ["Package"]

NOTE = "unpacked from GGUF: quantisation error of the file remains"


class PackageSettings(Settings):
    """Which package."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$", description="its name in the package index")


class Package:
    """An installed package with a model in it."""

    Settings: ClassVar[type[PackageSettings]] = PackageSettings

    def __init__(self, settings: PackageSettings, cache: Cache) -> None:
        self._name, self._cache = settings.name, cache

    @staticmethod
    def parse(rest: str) -> PackageSettings:
        """Settings from what follows the colon."""
        return PackageSettings(name=rest)

    def find(self) -> Found:
        """The converted folder; slow the first time.

        Raises:
            MissingDependency: not installed.
            ModelError: no GGUF file in it, or one that cannot be converted.
        """
        module_name = self._name.replace("-", "_").replace(".", "_").lower()
        spec = importlib.util.find_spec(module_name)
        if spec is None or spec.origin is None:
            raise MissingDependency(
                f"the package '{self._name}' is not installed",
                place=f"package:{self._name}",
                hint=f"pip install {self._name}",
            )
        init = Path(spec.origin)
        files = sorted(init.parent.rglob("*.gguf"))
        if len(files) == 1:
            source_hash = self._cache.hash_of(files[0])
            return Found(source_hash, converted(source_hash, files[0], self._cache), notes=(NOTE,))
        if not files and "def assemble(" in init.read_text(encoding="utf-8"):
            return self._assembled(importlib.import_module(module_name))
        raise ModelError(
            f"the package holds {len(files)} GGUF files and no 'assemble' function, one is needed",
            place=f"package:{self._name}",
            hint="name the file itself: gguf:PATH",
        )

    def _assembled(self, module: Any) -> Found:
        source_hash = getattr(module, "EXPECTED_SHA256", "")
        if not source_hash:
            raise ModelError(
                "the package does not say what its assembled file hashes to", place=f"package:{self._name}"
            )

        def fill(folder: Path) -> None:
            """Convert the packaged file into `folder`."""
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                try:
                    path = Path(module.assemble(Path(scratch) / "model.gguf"))
                except (ValueError, FileNotFoundError, ImportError) as error:
                    raise ModelError(
                        f"the package's parts do not make the file they should: {error}",
                        place=f"package:{self._name}",
                        hint=f"pip install --force-reinstall {self._name}",
                    ) from error
                convert(path, folder)

        return Found(source_hash, self._cache.folder("models", key(source_hash), fill), notes=(NOTE,))
