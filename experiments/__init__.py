"""One module per experiment: its command and numbers on top, its configuration, claims and figures."""
