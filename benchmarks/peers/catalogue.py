"""The peers. servers/ has the tuning of each, with reasons; requirements/ has the pinned versions."""

from benchmarks.peers import forms
from benchmarks.peers.peer import Peer, Served, StartFailed

__all__ = ["PEERS", "Peer", "Served", "StartFailed"]

_V2_PATH = "/v2/models/classify/infer"
_ALL = (
    Peer("fastapi", "fastapi", "/classify", forms.multipart, forms.best, own_environment=False),
    Peer("litserve", "litserve", "/predict", forms.json_image, forms.best),
    Peer("mosec", "mosec", "/inference", forms.raw, forms.best),
    Peer(
        "bentoml",
        "bentoml",
        "/classify",
        forms.json_images,
        forms.best_of_batch,
        environment={"BENTOML_DO_NOT_TRACK": "True"},
    ),
    Peer(
        "ray",
        "ray",
        "/classify",
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
        headers={"Inference-Header-Content-Length": "0"},  # the whole body is the single input
    ),
)

PEERS: dict[str, Peer] = {peer.name: peer for peer in _ALL}
