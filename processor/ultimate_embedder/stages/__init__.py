"""Stages: each takes what it needs, returns a result or raises."""
