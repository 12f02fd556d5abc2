"""Documentation pages, and the script that draws their pictures."""
