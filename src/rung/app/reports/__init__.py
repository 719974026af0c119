"""The offline HTML page and the terminal tables."""
