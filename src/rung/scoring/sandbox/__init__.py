"""Running programs that a model wrote: one contract, a ladder of rungs, the first that passes its self-test."""
