"""Storage Commitment (PS3.4 Annex J): requests kept until they are answered, answers from the object store, reports."""
