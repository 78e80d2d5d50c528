"""One operator of a run alone, on its recorded shapes: a script that anyone can run, with the ncu command for it."""
