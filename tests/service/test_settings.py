"""Settings as people give them: empty, with a line end, misspelt; and errors that name them as they were given."""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError

from aaserve.service import healthcheck
from aaserve.service.__main__ import main
from aaserve.service.setting_names import unknown_variables
from aaserve.service.settings import Settings
from tests.helpers import running_service


@pytest.fixture(autouse=True)
def _started_without_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["service"])


@contextmanager
def variables(**values: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(f"AASERVE_{name.upper()}", value)
        yield


def failed(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """The one line of a start that fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["service", *options])
        assert main() == 1
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_an_empty_variable_is_one_that_is_not_set() -> None:
    with variables(**dict.fromkeys(Settings.model_fields, "")):
        assert Settings().model_fields_set == set()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_value_of_blanks_is_refused_and_named_and_so_is_an_empty_option(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    default = Settings.model_fields[name].default
    if default == "":  # empty is a value of its own
        with variables(**{name: " \n"}):
            assert getattr(Settings(), name) == ""
        return
    with variables(**{name: " \n"}):
        assert failed(capsys) == f"error: AASERVE_{name.upper()}: expected a value, found ' \\n'"
    if not isinstance(default, bool):
        option = f"--{name.replace('_', '-')}"
        assert failed(capsys, option, "") == f"error: {option}: expected a value, found ''"
        assert failed(capsys, f"{option}=") == f"error: {option}: expected a value, found ''"


def test_blanks_and_line_ends_around_a_value_do_not_count(tmp_path: Path) -> None:
    with variables(
        host="::1\n",
        port=" 8080",
        repository=f"{tmp_path}\r\n",
        strict="true\n",
        provider="cpu\n",
        cpu_batch_ms="2.5\t",
        api_keys_file=" keys\n",
        log_format="json ",
        cors_origins=" *\n",
    ):
        assert Settings().model_dump(include=Settings().model_fields_set) == {
            "host": "::1",
            "port": 8080,
            "repository": tmp_path,
            "strict": True,
            "provider": "cpu",
            "cpu_batch_ms": 2.5,
            "api_keys_file": Path("keys"),
            "log_format": "json",
            "cors_origins": "*",
        }


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "abc", "-1"])
@pytest.mark.parametrize("name", ["cpu_batch_ms", "max_queue_delay_ms", "port", "max_body_bytes"])
def test_a_number_out_of_bounds_is_refused(name: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with variables(**{name: value}):
        assert re.fullmatch(rf"error: AASERVE_{name.upper()}: Input should be .*, found '{value}'", failed(capsys))


@pytest.mark.parametrize(
    ("options", "environment", "line"),
    [
        (["--repository", "gone"], {}, "--repository: gone: expected a folder of bundles"),
        ([], {"repository": "gone"}, "AASERVE_REPOSITORY: gone: expected a folder of bundles"),
        (["--repository=gone"], {"repository": "lost"}, "--repository: gone: expected a folder of bundles"),
        (["--api-keys-file", "gone"], {}, "--api-keys-file: gone: expected a readable file of keys, found No such"),
        (["--tls-key", "gone"], {}, "expected tls_certificate and tls_key together, found only --tls-key"),
        ([], {"tls_key": "a", "tls_certificate": ""}, "expected tls_certificate and tls_key together, found only AAS"),
        (["--tls-key", "a"], {"tls_certificate": "lost"}, "AASERVE_TLS_CERTIFICATE, --tls-key: lost: expected a rea"),
        (["--workers", "2"], {"metrics_compat": "triton"}, "AASERVE_METRICS_COMPAT: Triton's names are for one p"),
        ([], {"host": "no such host"}, "AASERVE_HOST: expected to listen on no such host:8080, found: "),
        (["--host", "a..b"], {}, "--host: expected to listen on a..b:8080, found: "),
        (["--host", "2001:db8::1"], {}, "--host: expected to listen on [2001:db8::1]:8080, found: "),
    ],
)  # fmt: skip
def test_an_error_names_the_setting_as_it_was_given(
    options: list[str], environment: dict[str, str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with variables(**environment):
        assert failed(capsys, *options).startswith(f"error: {line}")


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert failed(capsys, "--port", str(port)) == (
            f"error: --port: expected to listen on 127.0.0.1:{port}, found: Address already in use"
        )


def test_a_misspelt_variable_is_found_with_the_nearest_name() -> None:
    links = {  # which Kubernetes sets for Services called aaserve and aaserve-canary
        **{"service_port": "1", "port_8080_tcp_addr": "10.0.0.1", "canary_service_host": "10.0.0.1"},
        **{"canary_service_port_http": "80", "canary_port": "tcp://10.0.0.1:80", "canary_port_80_tcp_proto": "tcp"},
    }
    with variables(max_queu_size="3", colour="red", port="1", **links):
        assert unknown_variables(Settings.model_fields) == [
            "AASERVE_COLOUR is no setting",
            "AASERVE_MAX_QUEU_SIZE is no setting; did you mean AASERVE_MAX_QUEUE_SIZE?",
        ]


def test_the_start_warns_of_a_misspelt_variable_and_the_url_of_ipv6_is_one() -> None:
    if not _has_ipv6():
        pytest.skip("this machine has no IPv6 loopback address")
    with variables(max_queu_size="3", host="::1"), running_service() as service:
        assert service.client.base_url.host == "::1"
        assert service.client.get("/health/ready").status_code == 200
        [warning] = [line for line in service.log if "is no setting" in line]
        assert "did you mean AASERVE_MAX_QUEUE_SIZE?" in warning
        with variables(port=str(service.client.base_url.port)):
            assert healthcheck.main([]) == 0


@pytest.mark.parametrize(
    ("port", "line"),
    [("http", "AASERVE_PORT: expected a whole number, found 'http'"), ("", "/health/ready: expected 200, found .*")],
)
def test_the_health_check_reads_variables_as_the_service_does(
    port: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with variables(port=port, host="127.0.0.2", tls_certificate=""):  # where nothing listens
        assert healthcheck.main([]) == 1
    assert re.fullmatch(f"error: {line}\n", capsys.readouterr().err)


def test_a_models_own_settings_pass_the_same_checks() -> None:
    """A model's settings go through the same checks as the service's, with all the others as they are."""
    assert Settings.model_validate(Settings().model_dump()) == Settings()
    with pytest.raises(ValidationError, match="expected a value"):
        Settings(host="")


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True
