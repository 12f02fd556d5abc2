"""`trivium init`: a file that somebody has → the stage that fits it, as YAML with the data beside it."""
