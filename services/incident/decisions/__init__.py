"""What a claim or a report comes to: values in, a decision out. No I/O."""
