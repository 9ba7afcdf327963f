"""Commands over any transport: orders, running processes, lines, scopes."""
