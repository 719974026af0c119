"""Kinds of constraints, one a file: a function from what stands in a request and a vocabulary's spellings to a
constraint. The file's name is the key of `Request.constraint`."""
