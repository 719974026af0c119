"""From one schema version to the next: one file per step (`v0_to_v1`), the registry is this folder."""
