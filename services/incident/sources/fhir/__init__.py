"""FHIR: notifications, the resources they name, and the servers that have them."""
