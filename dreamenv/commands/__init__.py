"""The commands of the command line, one per file. Each is thin: the work is done by what Python users call."""
