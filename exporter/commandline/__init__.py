"""The parser of the command line, what its help says, and shell completion."""
