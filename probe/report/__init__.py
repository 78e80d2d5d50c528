"""Results as text: terminal, Markdown. Computes nothing; what it prints is on the result already."""
