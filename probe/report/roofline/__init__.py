"""The roofs of a machine and the operators under them: what is drawn, and the pictures of a terminal and a page."""
