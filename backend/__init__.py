"""The storage area: the plugin inside Orthanc, the transfer process beside it, and what both share."""
