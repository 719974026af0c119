"""Pools of examples that prompts draw from; data files and their loader."""
