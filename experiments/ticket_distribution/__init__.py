"""E2: what makes a ticket special, its mask or its weights (document 001)."""
