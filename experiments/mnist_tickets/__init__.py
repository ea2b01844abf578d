"""E4: winning tickets on MNIST and their controls (document 002 §3–§6)."""
