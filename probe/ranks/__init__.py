"""The traces of many ranks: finding their files, and reading each where it lies."""
