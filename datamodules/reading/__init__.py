"""Files, folders and hub names → rows."""
