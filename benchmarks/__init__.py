import aaserve.bundle.telemetry  # noqa: F401  (not empty like the others: it must come before any import of onnxruntime)
