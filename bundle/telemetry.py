"""Nothing phones home. Import this before onnxruntime and openvino.

From 1.32 on, ONNX Runtime for Linux writes a device id to the home directory and reports to Microsoft. It decides so
while it is imported, long before `disable_telemetry_events()` can be called (microsoft/onnxruntime#27379); only this
variable stops all of it.

OpenVINO reports to Google Analytics that it was imported, and writes a client id to the home directory, if it finds the
package openvino-telemetry, which it depends on. Without that package it uses a stand-in that does nothing.
"""

import os
import sys

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # importing it raises ImportError
