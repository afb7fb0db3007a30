"""A plugin's first day: a complete, tested distribution of a small but real method or reward source."""
