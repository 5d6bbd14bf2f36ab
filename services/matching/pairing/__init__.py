"""Who may support whom, who suits best, and a batch of searches answered together. No I/O."""
