"""Reports in our own words: signed JSON, and a table of them."""
