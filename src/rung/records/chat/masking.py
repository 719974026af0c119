"""What of a conversation carries loss."""

from __future__ import annotations

from typing import Literal

__all__ = ["Trained"]

Trained = Literal["response", "turns", "everything"]
"""Its last response, the responses of all turns, or every token of text."""
