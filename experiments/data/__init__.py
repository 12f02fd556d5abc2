"""`trivium data`: what is in a file, what is in it twice, and what of it is in an evaluation."""
