"""A whole Isen on one machine: an embedded S3 and an Orthanc with Isen, as processes in one folder.

`make run` keeps one in the foreground, `make demo` tours one, the integration tests start many.
"""
