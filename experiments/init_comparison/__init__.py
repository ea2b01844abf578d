"""E1: initializations compared for finding tickets (document 000)."""
