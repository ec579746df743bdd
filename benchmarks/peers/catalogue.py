"""The peers. How each is tuned, and why so, is in its file in servers/; requirements/ pins what it runs on."""

<<<<<<< HEAD
from benchmarks.peers.peer import (
    Peer,
    Served,
    StartFailed,
    best_prediction,
    first_best_prediction,
    json_base64,
    json_list_base64,
    multipart,
    raw,
    v2_base64,
    v2_binary_class_index,
    v2_class_index,
)
=======
from benchmarks.peers import forms
from benchmarks.peers.peer import Peer, Served, StartFailed
>>>>>>> peers

__all__ = ["PEERS", "Peer", "Served", "StartFailed"]

_V2_PATH = "/v2/models/classify/infer"
_ALL = (
<<<<<<< HEAD
    Peer("fastapi", "fastapi", "/classify", multipart, best_prediction, own_environment=False),
    Peer("mosec", "mosec", "/inference", raw, best_prediction),
    Peer("litserve", "litserve", "/predict", json_base64, best_prediction),
=======
    Peer("fastapi", "fastapi", "/classify", forms.multipart, forms.best, own_environment=False),
    Peer("litserve", "litserve", "/predict", forms.json_image, forms.best),
    Peer("mosec", "mosec", "/inference", forms.raw, forms.best),
>>>>>>> peers
    Peer(
        "bentoml",
        "bentoml",
        "/classify",
<<<<<<< HEAD
        json_list_base64,
        first_best_prediction,
=======
        forms.json_images,
        forms.best_of_batch,
>>>>>>> peers
        environment={"BENTOML_DO_NOT_TRACK": "True"},
    ),
    Peer(
        "ray",
        "ray",
        "/classify",
<<<<<<< HEAD
        raw,
        best_prediction,
        environment={"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_SERVE_ENABLE_HA_PROXY": "1"},
    ),
    Peer("mlserver", "mlserver", "/v2/models/classify/infer", v2_base64, v2_class_index),
    Peer(
        "triton",
        "nvidia-pytriton",
        "/v2/models/classify/infer",
        raw,
        v2_binary_class_index,
        headers={"Inference-Header-Content-Length": "0"},
=======
        forms.raw,
        forms.best,
        environment={
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        },
    ),
    Peer("mlserver", "mlserver", _V2_PATH, forms.v2_image, forms.v2_best),
    Peer(
        "triton",
        "nvidia-pytriton",
        _V2_PATH,
        forms.raw,
        forms.v2_binary_best,
        headers={"Inference-Header-Content-Length": "0"},  # all of the body is the one input
>>>>>>> peers
    ),
)

PEERS: dict[str, Peer] = {peer.name: peer for peer in _ALL}
