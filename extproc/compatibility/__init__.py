"""The table of what becomes of each feature at each kind of backend, made from the code."""
