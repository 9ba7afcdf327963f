"""Machines through the system's own OpenSSH: one private master each, whose mux socket is spoken directly."""
