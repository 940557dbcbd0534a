"""Chunk files in: read, counted, set aside or kept by row, and tokenised once."""
