"""L2: making and cleaning training data. No torch."""
