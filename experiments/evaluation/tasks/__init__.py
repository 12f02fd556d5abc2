"""The built-in tasks, each with its seeded items."""
