"""Bundles behind HTTP: search, chunks, and a page to look at them with."""
