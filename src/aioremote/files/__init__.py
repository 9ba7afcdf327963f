"""Paths and files at the far end."""
