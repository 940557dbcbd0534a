"""Files to chunks: text, structure, cuts that keep to a token limit, chunk files."""
