"""`Acknowledge: "Received"`: instances that were acknowledged and that Orthanc does not have yet."""
