"""The peers. How each is tuned, and why so, is in its file in servers/; requirements/ pins what it runs on."""

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

__all__ = ["PEERS", "Peer", "Served", "StartFailed"]

_ALL = (
    Peer("fastapi", "fastapi", "/classify", multipart, best_prediction, own_environment=False),
    Peer("mosec", "mosec", "/inference", raw, best_prediction),
    Peer("litserve", "litserve", "/predict", json_base64, best_prediction),
    Peer(
        "bentoml",
        "bentoml",
        "/classify",
        json_list_base64,
        first_best_prediction,
        environment={"BENTOML_DO_NOT_TRACK": "True"},
    ),
    Peer(
        "ray",
        "ray",
        "/classify",
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
    ),
)

PEERS: dict[str, Peer] = {peer.name: peer for peer in _ALL}
