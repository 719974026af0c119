"""Families of tasks with verifiable answers; one file each, the registry is this folder."""
