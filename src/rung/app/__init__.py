"""L5: command line and reports."""
