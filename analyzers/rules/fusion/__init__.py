"""F01–F19: operators that one pass could do together."""
