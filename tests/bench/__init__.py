"""The benchmark: Isen beside Orthanc's own DICOM server and the documented samples, on the same machine in one run."""
