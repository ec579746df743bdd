"""A page of another origin in a real browser: what CORS lets it send and read."""

import base64

from playwright.sync_api import BrowserContext

from tests.helpers import RunningService, running_service

ASK = """async ([address, text]) => {
    const seen = async (path, options) => {
        try {
            const response = await fetch(address + path, options);
            return [response.status, Object.fromEntries(response.headers)];
        } catch (error) {
            return String(error);
        }
    };
    const picture = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const headers = {
        "Content-Type": "application/octet-stream", "Inference-Header-Content-Length": "0", "X-Request-ID": "of-a-page",
        "X-Request-Timeout-Ms": "9000", "Authorization": "Bearer none", "baggage": "a=b", "tracestate": "a=b",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    };
    return {
        infer: await seen("/v2/models/aa-cifar100:pictures/infer", {method: "POST", body: picture, headers}),
        put: await seen("/predictions/aa-cifar100", {method: "PUT", body: picture, headers}),
        head: await seen("/models", {method: "HEAD"}),
        options: await seen("/classify", {method: "OPTIONS"}),
        wrong: await seen("/classify", {method: "DELETE"}),
        encoded: await seen("/classify", {method: "POST", body: picture, headers: {"Content-Encoding": "br"}}),
    };
}"""


def test_a_page_of_another_origin_sends_and_reads_all(context: BrowserContext, service: RunningService) -> None:
    own = str(service.client.base_url).replace("http://", "HTTP://")
    picture = service.client.get("/page/examples/cat.jpg").content
    with running_service("--cors-origins", f"https://other.example,{own}/") as other:
        tab = context.new_page()
        tab.goto("/health/live")  # which has no Content-Security-Policy
        address = str(other.client.base_url).rstrip("/")
        found = tab.evaluate(ASK, [address, base64.b64encode(picture).decode()])
    assert {name: answer[0] for name, answer in found.items()} == {
        **{"infer": 200, "put": 200, "head": 200, "options": 204, "wrong": 405, "encoded": 415},
    }
    headers = {name: answer[1] for name, answer in found.items()}
    assert headers["infer"]["x-request-id"] == "of-a-page"
    assert int(headers["infer"]["inference-header-content-length"]) > 0
    assert headers["infer"]["server-timing"]
    assert headers["options"]["allow"] == headers["wrong"]["allow"] == "OPTIONS, POST"
    assert headers["encoded"]["accept-encoding"] == "gzip, deflate"
    assert int(headers["head"]["content-length"]) > 0
