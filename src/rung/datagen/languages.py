"""Which programming language a file is in, by its name's ending; and which licence a program's head names."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

__all__ = ["LANGUAGES_BY_ENDING", "language_of", "licence_in"]

LANGUAGES_BY_ENDING = {
    ".py": "python", ".pyi": "python", ".js": "javascript", ".mjs": "javascript", ".ts": "typescript",
    ".tsx": "typescript", ".java": "java", ".c": "c", ".h": "c", ".cc": "c++", ".cpp": "c++", ".hpp": "c++",
    ".cs": "c#", ".go": "go", ".rs": "rust", ".rb": "ruby", ".php": "php", ".sh": "shell", ".sql": "sql",
    ".kt": "kotlin", ".swift": "swift", ".scala": "scala", ".jl": "julia", ".r": "r", ".lua": "lua", ".hs": "haskell",
    ".ipynb": "notebook", ".html": "html", ".css": "css", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml",
}  # fmt: skip
_SPDX = re.compile(r"SPDX-License-Identifier:\s*([A-Za-z0-9.+-]+)")
_COMPRESSED = (".gz", ".zst")


def language_of(name: str) -> str:
    """The language of a file of this name, empty when its ending says none."""
    path = PurePosixPath(name.lower())
    while path.suffix in _COMPRESSED:
        path = path.with_suffix("")
    return LANGUAGES_BY_ENDING.get(path.suffix, "")


def licence_in(text: str) -> str:
    """The SPDX name that the first lines of a program give as its licence, empty when they give none."""
    found = _SPDX.search(text[:4000])
    return found.group(1) if found else ""
