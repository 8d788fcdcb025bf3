"""The vocabulary that methods are written in."""
