"""Calling Python at the far end: the near side of interpreters, sessions and what they return."""
