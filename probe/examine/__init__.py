"""From a source to its analysis: what it is, what was recorded beside its trace, which ceilings it is held against."""
