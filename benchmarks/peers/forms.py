"""Put a picture into a request, and read the best class from an answer.

into a request:     (picture, its media type) --> (Content-Type, body)
out of an answer:   body --> class index; of a detector, that of its best detection
"""

import base64
import json


def raw(picture: bytes, media_type: str) -> tuple[str, bytes]:
    return media_type, picture


def multipart(picture: bytes, media_type: str) -> tuple[str, bytes]:
    """A form with the file `image`."""
    boundary = "ce1f2c9f0b4c4e0e"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="image"\r\n'
    body = f"{head}Content-Type: {media_type}\r\n\r\n".encode() + picture + f"\r\n--{boundary}--\r\n".encode()
    return f"multipart/form-data; boundary={boundary}", body


def json_image(picture: bytes, media_type: str) -> tuple[str, bytes]:
    return "application/json", json.dumps({"image": _base64(picture)}).encode()


def json_images(picture: bytes, media_type: str) -> tuple[str, bytes]:
    """A batch of one."""
    return "application/json", json.dumps({"images": [_base64(picture)]}).encode()


def v2_image(picture: bytes, media_type: str) -> tuple[str, bytes]:
    """The Open Inference Protocol with bytes in JSON, for MLServer."""
    base64_content = {"content_type": "base64"}
    image = {"name": "image", "shape": [1, 1], "datatype": "BYTES", "parameters": base64_content}
    return "application/json", json.dumps({"inputs": [{**image, "data": [_base64(picture)]}]}).encode()


def best(answer: bytes) -> int:
    """From {"predictions": [{"label", "class_index", "score"}, …]}."""
    index: int = json.loads(answer)["predictions"][0]["class_index"]
    return index


def best_detection(answer: bytes) -> int | None:
    """Of {"detections": [{"label", "class_index", "score", "box"}, …]}; None if nothing was found."""
    found = json.loads(answer)["detections"]
    return found[0]["class_index"] if found else None


def best_of_batch(answer: bytes) -> int:
    """From a list with one such object."""
    index: int = json.loads(answer)[0]["predictions"][0]["class_index"]
    return index


def v2_best(answer: bytes) -> int:
    """From the tensor `class_index`."""
    [tensor] = [output for output in json.loads(answer)["outputs"] if output["name"] == "class_index"]
    index: int = tensor["data"][0]
    return index


def v2_binary_best(answer: bytes) -> int:
    """The same with tensors as bytes after the JSON."""
    head, position = json.JSONDecoder().raw_decode(answer.decode("latin-1"))
    for output in head["outputs"]:
        if output["name"] == "class_index":
            return int.from_bytes(answer[position : position + 4], "little")
        position += output["parameters"]["binary_data_size"]
    raise ValueError("no class_index in the answer")


def _base64(picture: bytes) -> str:
    return base64.b64encode(picture).decode()
