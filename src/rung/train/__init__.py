"""L3: from batches to weights."""
