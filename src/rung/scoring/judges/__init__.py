"""Critics that judge by log-probability; one file each, the registry is this folder."""
