"""What a scrape gets: formats, the process, few series, and Triton's names if asked for."""

import shutil
import subprocess

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.helpers import EXAMPLES, RunningService, running_service

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()
PROMTOOL = shutil.which("promtool")


def test_process_and_python_are_reported(service: RunningService) -> None:
    families = {family.name: family for family in parse_text(service.client.get("/metrics").text)}
    assert families["process_resident_memory_bytes"].samples[0].value > 10e6
    assert families["process_cpu_seconds"].samples[0].value > 0
    assert families["process_open_fds"].samples[0].value > 0
    assert families["python_info"].samples[0].labels["implementation"] == "CPython"
    assert "python_gc_collections" in families


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool here: apt-get install prometheus")
def test_promtool_has_nothing_to_say_about_our_metrics(service: RunningService) -> None:
    service.classify(JPEG)
    service.classify(b"no picture")
    text = service.client.get("/metrics").text
    done = subprocess.run([PROMTOOL, "check", "metrics"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_openmetrics_is_served_to_clients_that_accept_it(service: RunningService) -> None:
    service.classify(JPEG)
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    answer = service.client.get("/metrics", headers={"Accept": accept})
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    names = {family.name for family in parse_openmetrics(answer.text)}
    plain = service.client.get("/metrics")
    assert plain.headers["Content-Type"].startswith("text/plain; version=")
    assert names == {family.name for family in parse_text(plain.text)}
    assert "aaserve_requests" in names


def test_made_up_names_add_no_series(service: RunningService) -> None:
    def count() -> int:
        return len(service.client.get("/metrics").text.splitlines())

    def make_up(word: str) -> None:
        service.client.get(f"/{word}")
        service.client.get(f"/models/{word}")
        service.client.get(f"/page/examples/{word}")
        service.client.request(word.upper(), "/classify")
        service.classify(JPEG, model=word)
        service.client.get("/health/live", headers={"X-Request-ID": word})

    make_up("first")
    service.client.get("/metrics")
    before = count()
    for number in range(20):
        make_up(f"made-up-{number}")
    assert count() == before


def test_tritons_names_are_offered_only_if_asked_for(service: RunningService) -> None:
    assert "nv_inference" not in service.client.get("/metrics").text


def test_tritons_names_carry_our_own_figures() -> None:
    with running_service("--metrics-compat", "triton") as triton:
        labels = {"model": "aa-cifar100", "version": "1"}

        def theirs(name: str) -> float:
            return triton.metric(f"nv_inference_{name}", **labels)

        assert 'nv_inference_request_success{model="aa-cifar100",version="1"} 0.0' in triton.client.get("/metrics").text
        for _ in range(3):
            assert triton.classify(JPEG).status_code == 200
        for _ in range(2):
            assert triton.classify(b"no picture").status_code == 415
        model = {"model": "aa-cifar100"}
        assert (theirs("request_success"), theirs("request_failure")) == (3, 2)
        assert theirs("count") == triton.metric("aaserve_batch_size_sum", **model) == 3
        assert theirs("exec_count") == triton.metric("aaserve_batch_size_count", **model) == 3
        assert theirs("pending_request_count") == 0
        for name, ours, stage in (
            ("request_duration_us", "aaserve_request_duration_seconds_sum", {}),
            ("queue_duration_us", "aaserve_stage_duration_seconds_sum", {"stage": "queue"}),
            ("compute_infer_duration_us", "aaserve_stage_duration_seconds_sum", {"stage": "inference"}),
        ):
            seconds = triton.metric(ours, **model, **stage)
            assert seconds > 0
            assert theirs(name) == pytest.approx(seconds * 1e6)


def test_each_picture_is_counted_once_by_format_and_outcome(service: RunningService) -> None:
    def counted(outcome: str) -> float:
        return service.metric("aaserve_images_total", format="jpeg", outcome=outcome)

    decoded, refused = counted("decoded"), counted("refused")
    assert service.classify(JPEG).status_code == 200
    assert service.classify(JPEG[:200]).json()["code"] == "invalid_image"
    assert (counted("decoded") - decoded, counted("refused") - refused) == (1, 1)
