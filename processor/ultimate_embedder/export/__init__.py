"""Bundles: written beside their place, published at once, read back and checked."""
