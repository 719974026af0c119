"""Where labelled answers come from: published layouts read from a file, and sets made on the spot; one file each."""
