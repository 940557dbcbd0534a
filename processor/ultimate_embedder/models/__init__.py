"""The models of a run: known, asked for, described, pinned, fetched, loaded."""
