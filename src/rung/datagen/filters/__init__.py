"""Parts that keep, change or drop records, each drop with its reason; the registry is this folder."""
