"""Grading model-written code: the solution is an oracle behind a pipe, its tests and their answers stay outside."""
