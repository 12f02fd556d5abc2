"""Scaling laws: fitted to points that a user has, made on this machine, and tried on a run not seen."""
