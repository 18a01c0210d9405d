"""From the name a caller says to the targets that can serve it."""
