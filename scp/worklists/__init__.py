"""The managed worklist: entries made over REST or HL7, kept in one durable, indexed file."""
