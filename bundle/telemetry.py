"""Nothing phones home. Import this before onnxruntime.

From 1.32 on, ONNX Runtime for Linux writes a device id to the home directory and reports to Microsoft. It decides so
while it is imported, long before `disable_telemetry_events()` can be called (microsoft/onnxruntime#27379); only this
variable stops all of it.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
