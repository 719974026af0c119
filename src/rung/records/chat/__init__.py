"""Formats: one file each, turning instructions or messages into token ids with a loss mask made at the same time."""
