"""All four stages on real data in about ten minutes, with a report."""
