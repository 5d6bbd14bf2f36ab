"""Commands about what sources send: HL7 v2 messages, FHIR subscriptions, the hospital's own list."""
