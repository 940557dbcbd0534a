"""Batches of a plan done by worker processes, or in this one."""
