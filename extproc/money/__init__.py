"""Amounts, budgets, windows and rate limits: pure, between the rules of `core/` and the stores of `ledger/`."""
