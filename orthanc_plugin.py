"""What Orthanc's Python plugin executes: hands the `orthanc` module to Isen and stays out of the way."""

from pathlib import Path

import orthanc

from backend.plugin.host import start

start(orthanc, Path(__file__).resolve().parent)
