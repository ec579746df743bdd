"""FastAPI as most people write it: an UploadFile, a plain function, ONNX Runtime with its defaults.

Not tuned, on purpose. `fastapi run` starts uvicorn like this (one process, uvloop and httptools from
fastapi[standard]): https://fastapi.tiangolo.com/deployment/manually/
"""

from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, File, UploadFile

from benchmarks.peers.servers.classifier import PORT, Classifier

app = FastAPI()
classifier = Classifier()


@app.post("/classify")
def classify(image: Annotated[UploadFile, File()]) -> dict[str, Any]:
    return classifier.classify([image.file.read()])[0]


if __name__ == "__main__":
    uvicorn.run(app, port=PORT, access_log=False)
