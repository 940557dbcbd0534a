"""The commands. Each parses, calls one function and prints."""
