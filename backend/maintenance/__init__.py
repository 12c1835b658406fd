"""The operators' tools behind `isen where`, `verify` and `repair`: Orthanc's index against the bucket and the spool.

They run beside a working Orthanc, with its configuration, and read its index through its REST API only.
"""
