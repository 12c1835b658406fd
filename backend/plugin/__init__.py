"""The part of Isen that runs in Orthanc's interpreter: standard library only, and idle as much as it can be."""
