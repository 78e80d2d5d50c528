"""How fast do ranks exchange data? The suite, its ranks, what they run and how the curve is fitted."""
