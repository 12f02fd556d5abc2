"""Documents a model may read: cut into passages, found by a question, and put into a prompt."""
