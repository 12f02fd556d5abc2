"""A command line → objects: the program, the parser, and what is wrong with a command. Runs nothing."""
