"""A recorded operator as a call in Python: which overload took its arguments, and what has to be in its tensors."""
