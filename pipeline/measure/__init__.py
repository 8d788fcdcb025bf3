"""What is measured of a student: accuracy and agreement, belief match, and how it does on held-out images."""
