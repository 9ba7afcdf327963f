"""Another user on a machine that is reached already: sudo around any transport."""
