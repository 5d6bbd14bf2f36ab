"""HL7 v2 over MLLP and HTTP: frames, messages, acknowledgements, what ADT says."""
