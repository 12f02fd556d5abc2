"""`trivium rank`: people rank replies on a page, and what they say is the next reward model's data."""
