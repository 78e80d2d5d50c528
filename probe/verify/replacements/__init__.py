"""What can stand in for a recorded chain of operators: one family a file, roles read from the record."""
