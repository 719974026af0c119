"""One file per architecture family; the registry is this folder."""
