"""The peers. How each is tuned, and why so, is in its file in servers/; requirements/ pins what it runs on."""

from benchmarks.peers.peer import Peer, Served, StartFailed, best_prediction, json_base64, multipart, raw

__all__ = ["PEERS", "Peer", "Served", "StartFailed"]

_ALL = (
    Peer("fastapi", "fastapi", "/classify", multipart, best_prediction, own_environment=False),
    Peer("mosec", "mosec", "/inference", raw, best_prediction),
    Peer("litserve", "litserve", "/predict", json_base64, best_prediction),
)

PEERS: dict[str, Peer] = {peer.name: peer for peer in _ALL}
