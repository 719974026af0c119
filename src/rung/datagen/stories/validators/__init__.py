"""What a story must be, one file per question; the registry is this folder."""
