"""probe.profile for loops that others own: one module a library, which imports that library and no other."""
