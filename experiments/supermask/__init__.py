"""E6: networks that work untrained, and how small a network must be (document 004)."""
