"""The admin service over gRPC: usage, records, budgets and the report of a running gateway, for operators' programs."""
