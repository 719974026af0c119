"""Held-out item sets; one file each, the registry is this folder."""
