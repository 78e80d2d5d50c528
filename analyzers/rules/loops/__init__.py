"""F20, F21, F28: loops of Python over what one operator does at once."""
