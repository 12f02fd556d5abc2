"""Charts and pages that reports share."""
