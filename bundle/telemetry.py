"""Nothing phones home. Import this before onnxruntime and openvino.

Since 1.32, ONNX Runtime for Linux writes a device id to the home directory and reports to Microsoft. This starts during
the import, before `disable_telemetry_events()` can be called (microsoft/onnxruntime#27379). Only this variable turns
all of it off.

OpenVINO reports its import to Google Analytics and writes a client id to the home directory if it finds the package
openvino-telemetry, one of its dependencies. Without that package it uses a stub that does nothing.
"""

import os
import sys

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # importing it raises ImportError
