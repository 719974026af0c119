"""L2: numbers with error bars. No torch."""
