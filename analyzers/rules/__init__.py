"""The rules: what a trace can show that is worth changing. One file a family; catalogue.py lists them all."""
