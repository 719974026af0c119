"""How many stories are written, and from what, until enough were kept; one file each, the registry is this folder."""
