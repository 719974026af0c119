"""`python -m rung` is the command line."""

from rung.app.cli import main

if __name__ == "__main__":
    main()
