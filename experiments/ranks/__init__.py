"""The ranks of a run: one voice, one end, one configuration."""
