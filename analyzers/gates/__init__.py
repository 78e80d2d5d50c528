"""Is new code slower than old? Pure: paired samples and counts in, a verdict with its causes out."""
