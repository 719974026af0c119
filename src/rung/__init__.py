"""rung raises a language model from raw text to an aligned, reasoning coder, and proves every stage."""

__version__ = "0.1.0"
