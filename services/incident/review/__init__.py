"""What a person decides: doubtful incidents and identifiers that lead to nobody."""
