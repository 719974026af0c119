"""Shared layers: attention, feed-forward, normalisation, rotary positions. One file each."""
