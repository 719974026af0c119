"""Checks with a right answer; one file each, the registry is this folder."""
