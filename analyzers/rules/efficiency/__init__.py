"""E01–E15, F18–F23, F29, F30, H14: operators slower, or larger, than their task needs."""
