"""Losses as pure functions; one file each, the registry is this folder."""
