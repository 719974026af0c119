"""L1: what data is, on disk and as tokens. Imports base."""
