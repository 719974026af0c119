"""Judging in a process of its own: what may hang, crash or eat memory does so without the caller."""
