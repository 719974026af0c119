"""A constraint under which every text is Python that parses."""

from rung.engine.constraints.python.constraint import compile_python

__all__ = ["compile_python"]
