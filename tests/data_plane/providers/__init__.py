"""Stand-ins for the providers: each judges what it gets by that provider's documented rules, and answers in its form."""
