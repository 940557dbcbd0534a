"""One run: what is checked before it, one collection after another, its manifest."""
