"""How signals arrive: HL7 v2 over MLLP or HTTP, and native JSON."""
