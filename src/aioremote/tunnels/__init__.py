"""Tunnels: listeners at one end whose connections go on from the other, and the supervision of both."""
