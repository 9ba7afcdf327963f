"""Async mechanics that know nothing remote. Not public."""
