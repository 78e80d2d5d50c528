"""What rules are written with: units of work, what flows between them, patterns, and what is claimed already."""
