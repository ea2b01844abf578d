"""E7: where tickets come from, stability to the order of the examples."""
