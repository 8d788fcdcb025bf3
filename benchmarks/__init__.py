"""Speed, side by side with plain reference code, in one run on one machine."""
