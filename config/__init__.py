"""Settings of every process, read from Orthanc's own configuration and validated outside Orthanc's interpreter."""
