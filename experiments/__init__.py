"""A run: the command line, configurations, callbacks, quickstart."""
