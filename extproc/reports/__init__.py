"""What was spent, on what, and what it would have been elsewhere: pure sums over records and rows, and their tables."""
