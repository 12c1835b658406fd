"""HL7 version 2 orders over MLLP, made into entries of the managed worklist."""
