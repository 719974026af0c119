"""L2: is this answer good? Judges, verifiers, rewards. No torch."""
