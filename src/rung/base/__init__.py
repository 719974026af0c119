"""L0: settings, lookup, errors, seeds, fingerprint, events. Imports nothing of ours."""
