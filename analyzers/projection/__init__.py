"""What the same work would take on another device, at another size, on more ranks: every figure with its error."""
