"""The DICOM SCP: worker processes that answer modalities and speak with Orthanc over its REST API."""
