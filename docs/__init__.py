"""What is written beside the code: the pages of the site, and how it is made."""
