"""Optimizers; one file each, the registry is this folder."""
