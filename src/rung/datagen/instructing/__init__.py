"""Instructions that texts of a corpus are the answers to: what can be asked, in which words, and whether it is so."""
