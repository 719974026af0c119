"""Parts that make records with a completer; one file each, the registry is this folder."""
