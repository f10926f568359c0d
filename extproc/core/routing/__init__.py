"""The decision: facts of the request, rules, then value; hard constraints and availability. Pure. Begin at flow.py."""
