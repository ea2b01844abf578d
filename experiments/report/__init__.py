"""All results on one page: every claim with its verdict, and every run that judges it. See ``command``."""
