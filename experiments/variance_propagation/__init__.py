"""E5: how initialization carries variance through depth (document 003)."""
