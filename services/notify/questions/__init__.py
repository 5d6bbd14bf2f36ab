"""Questions to one recipient each: what may be answered, and the pages that ask it."""
