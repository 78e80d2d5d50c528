"""What changed between two results: pure, tables in and rows out."""
