"""One command, one file, found by name when it is typed: no command pays for the imports of another."""
