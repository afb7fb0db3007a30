"""The reference page, generated from the code it describes."""
