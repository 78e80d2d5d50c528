"""F24–F27, H13, M06: what is done to parameters and gradients one after the other."""
