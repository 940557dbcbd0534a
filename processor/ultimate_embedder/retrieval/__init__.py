"""Ranked lists: made by exact search, fused, and judged by known answers."""
