"""`isen check` against a real S3 server, real folders, real ports and real certificates."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from backend.cli.__main__ import app
from backend.stack.ports import free_port
from backend.stack.s3_server import S3Server

SECRET = "wJalrXUtnFEMI-not-to-be-seen"
ROOT = Path(__file__).parents[2]
BUCKET = "isen-check"

Check = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def configuration(tmp_path: Path, s3: S3Server) -> dict[str, Any]:
    """A configuration with which all checks pass, unless the machine's own disk is volatile."""
    s3.create_bucket(BUCKET)
    (tmp_path / "worklists").mkdir()
    return {
        "DicomServerEnabled": False,
        "DicomPort": free_port(),
        "HttpPort": free_port(),
        "PythonScript": str(ROOT / "orthanc_plugin.py"),
        "Isen": {
            "Python": sys.executable,
            "Storage": {
                "BucketName": BUCKET,
                "Region": "us-east-1",
                "Endpoint": s3.url,
                "VirtualAddressing": False,
                "AccessKey": "anybody",
                "SecretKey": SECRET,
                "ConnectTimeout": 2,
                "RequestTimeout": 5,
                "SpoolDirectory": str(tmp_path / "spool"),
                "MaximumSpoolSizeMB": 1,
                "AllowVolatileSpool": True,
                "CacheDirectory": str(tmp_path / "cache"),
                "MaximumCacheSizeMB": 1,
            },
            "Worklists": {"Directory": str(tmp_path / "worklists")},
        },
    }


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Runs `isen check --json` on a configuration; no secret may be in what it prints."""

    def run(configuration: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        file = tmp_path / "orthanc.json"
        file.write_text("// comment\n" + json.dumps(configuration))
        result = CliRunner().invoke(app, ["check", "--json", str(file)])
        assert SECRET not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result.exit_code, json.loads(result.output)

    return run


def not_passed(report: dict[str, Any]) -> dict[str, str]:
    """Check → what was found, of those that failed."""
    return {outcome["Check"]: outcome["Found"] for outcome in report["Checks"] if outcome["Verdict"] == "failed"}


def storage(configuration: dict[str, Any]) -> dict[str, Any]:
    section: dict[str, Any] = configuration["Isen"]["Storage"]
    return section


def test_all_is_well(check: Check, configuration: dict[str, Any], s3: S3Server, tmp_path: Path) -> None:
    code, report = check(configuration)
    assert (code, not_passed(report)) == (0, {})
    assert report["Works"] is True
    assert {outcome["Check"] for outcome in report["Checks"]} == {
        "Configuration",
        "Interpreter",
        "Plugin script",
        "Spool folder",
        "Cache folder",
        "Free space",
        "Worklist folder",
        "Bucket",
        "DICOM port",
        "HTTP port",
    }
    assert s3.keys(BUCKET) == [], "the small object is gone again"
    assert not (tmp_path / "spool").exists(), "nothing is created"


def test_the_installed_command_prints_a_table(configuration: dict[str, Any], tmp_path: Path) -> None:
    configuration["DicomAet"] = "${TITLE}"
    (tmp_path / "conf.d").mkdir()
    for option, value in configuration.items():
        (tmp_path / "conf.d" / f"{option}.json").write_text(json.dumps({option: value}))
    command = [str(Path(sys.executable).parent / "isen"), "check", str(tmp_path / "conf.d")]
    environment = {**os.environ, "COLUMNS": "200", "TITLE": "ISEN"}
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, cwd="/", check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "✓  Bucket" in run.stdout
    assert "✗" not in run.stdout
    assert SECRET not in run.stdout + run.stderr


def test_mistakes_in_the_configuration_come_first_and_alone(check: Check, configuration: dict[str, Any]) -> None:
    del storage(configuration)["Region"]
    storage(configuration)["Durability"] = SECRET
    code, report = check(configuration)
    assert code == 78
    assert [error["Path"] for error in report["Errors"]] == ["Isen.Storage.Region", "Isen.Storage.Durability"]
    assert report["Checks"] == []


def test_a_file_that_is_no_json_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "orthanc.json").write_text("{\n 'x': 1}")
    result = CliRunner().invoke(app, ["check", str(tmp_path / "orthanc.json")], env={"COLUMNS": "200"})
    assert result.exit_code == 78
    assert "line 2, column 2" in result.output


class TestBucket:
    def test_missing(self, check: Check, configuration: dict[str, Any]) -> None:
        storage(configuration)["BucketName"] = "nobody-made-this"
        code, report = check(configuration)
        assert code == 1
        assert list(not_passed(report)) == ["Bucket"]
        assert "set Isen.Storage.CreateBucket to true" in not_passed(report)["Bucket"]

    def test_missing_but_to_be_created_is_not_created_by_a_check(
        self, check: Check, configuration: dict[str, Any]
    ) -> None:
        storage(configuration).update(BucketName="made-by-isen-later", CreateBucket=True)
        for _ in range(2):
            code, report = check(configuration)
            assert code == 0
            (found,) = [outcome for outcome in report["Checks"] if outcome["Check"] == "Bucket"]
            assert found["Verdict"] == "warning"
            assert "does not exist yet" in found["Found"]

    def test_nobody_at_the_endpoint(self, check: Check, configuration: dict[str, Any]) -> None:
        storage(configuration)["Endpoint"] = f"http://127.0.0.1:{free_port()}"
        code, report = check(configuration)
        assert code == 1
        assert "Isen.Storage.Endpoint" in not_passed(report)["Bucket"]
        assert "keeps images in the spool" in not_passed(report)["Bucket"]

    @pytest.mark.parametrize(
        ("s3_code", "remedy"),
        [
            ("SignatureDoesNotMatch", "Isen.Storage.AccessKey and SecretKey"),
            ("InvalidAccessKeyId", "Isen.Storage.AccessKey and SecretKey"),
            ("AccessDenied", "allow s3:GetObject"),
        ],
    )
    def test_refused(
        self, check: Check, configuration: dict[str, Any], refusing: Callable[[str], str], s3_code: str, remedy: str
    ) -> None:
        storage(configuration)["Endpoint"] = refusing(s3_code)
        code, report = check(configuration)
        assert code == 1
        assert remedy in not_passed(report)["Bucket"]

    def test_no_credentials(
        self, check: Check, configuration: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        del storage(configuration)["AccessKey"], storage(configuration)["SecretKey"]
        code, report = check(configuration)
        assert code == 1
        assert "no credentials" in not_passed(report)["Bucket"]


@pytest.fixture
def refusing() -> Iterator[Callable[[str], str]]:
    """Starts a server that refuses every request with 403 and an S3 error code; returns its address."""
    servers: list[ThreadingHTTPServer] = []

    def start(code: str) -> str:
        class Refusal(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def refuse(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
                self.send_response(403)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = refuse  # noqa: N815 - the names http.server calls

            def log_message(self, *_: Any) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Refusal)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class TestFolders:
    def test_a_spool_that_is_a_file(self, check: Check, configuration: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "spool").touch()
        code, report = check(configuration)
        assert code == 1
        assert "Isen.Storage.SpoolDirectory" in not_passed(report)["Spool folder"]
        assert "Cache folder" not in not_passed(report)

    def test_a_cache_nobody_can_write(self, check: Check, configuration: dict[str, Any]) -> None:
        storage(configuration)["CacheDirectory"] = "/sys/kernel"
        code, report = check(configuration)
        assert code == 1
        assert "Isen.Storage.CacheDirectory: /sys/kernel is not writable" in not_passed(report)["Cache folder"]

    def test_more_than_the_disk_has(self, check: Check, configuration: dict[str, Any]) -> None:
        storage(configuration)["MaximumSpoolSizeMB"] = 10**9
        code, report = check(configuration)
        assert code == 0
        (found,) = [outcome for outcome in report["Checks"] if outcome["Check"] == "Free space"]
        assert found["Verdict"] == "warning"
        assert "MaximumSpoolSizeMB" in found["Found"]

    def test_worklists_that_are_missing(self, check: Check, configuration: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "worklists").rmdir()
        code, report = check(configuration)
        assert code == 1
        assert "does not exist" in not_passed(report)["Worklist folder"]


class TestPorts:
    @pytest.mark.parametrize("option", ["DicomPort", "HttpPort"])
    def test_taken_by_somebody(self, check: Check, configuration: dict[str, Any], option: str) -> None:
        with socket.create_server(("127.0.0.1", configuration[option])):
            code, report = check(configuration)
        assert code == 1
        (found,) = not_passed(report).values()
        assert found.startswith(f"{option}: {configuration[option]} is taken by ")
        assert f"(process {os.getpid()})" in found

    def test_held_by_an_orthanc_that_runs(self, check: Check, configuration: dict[str, Any], tmp_path: Path) -> None:
        named_orthanc = tmp_path / "Orthanc"
        named_orthanc.symlink_to("/bin/sleep")
        with socket.create_server(("127.0.0.1", configuration["DicomPort"])) as listener:
            orthanc = subprocess.Popen([named_orthanc, "60"], pass_fds=[listener.fileno()])
            try:
                listener.close()
                code, report = check(configuration)
            finally:
                orthanc.kill()
                orthanc.wait()
        (found,) = [outcome for outcome in report["Checks"] if outcome["Check"] == "DICOM port"]
        assert (code, found["Verdict"]) == (0, "warning")
        assert f"held by Orthanc (process {orthanc.pid})" in found["Found"]

    def test_not_needed_when_the_server_is_off(self, check: Check, configuration: dict[str, Any]) -> None:
        configuration["Isen"]["Dicom"] = {"Enabled": False}
        configuration["HttpServerEnabled"] = False
        code, report = check(configuration)
        assert code == 0
        assert not [outcome for outcome in report["Checks"] if "port" in outcome["Check"]]


class TestInterpreter:
    def test_missing(self, check: Check, configuration: dict[str, Any]) -> None:
        configuration["Isen"]["Python"] = "/nowhere/python"
        code, report = check(configuration)
        assert code == 1
        assert "Isen.Python: /nowhere/python cannot be executed" in not_passed(report)["Interpreter"]

    def test_something_else(self, check: Check, configuration: dict[str, Any]) -> None:
        configuration["Isen"]["Python"] = "/bin/false"
        assert "does not behave like Python" in not_passed(check(configuration)[1])["Interpreter"]

    def test_without_the_packages(self, check: Check, configuration: dict[str, Any], tmp_path: Path) -> None:
        bare = tmp_path / "bare"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True, timeout=60)
        configuration["Isen"]["Python"] = str(bare / "bin" / "python")
        found = not_passed(check(configuration)[1])["Interpreter"]
        assert "lacks boto3" in found
        assert "make setup" in found

    def test_a_script_that_is_missing(self, check: Check, configuration: dict[str, Any]) -> None:
        configuration["PythonScript"] = "/nowhere/orthanc_plugin.py"
        assert "Plugin script" in not_passed(check(configuration)[1])


class TestCertificates:
    @pytest.fixture
    def pem(self, tmp_path: Path) -> dict[str, str]:
        """Two certificates with their keys, made by OpenSSL."""
        files = {}
        for name in ("one", "other"):
            certificate, key = tmp_path / f"{name}.crt", tmp_path / f"{name}.key"
            request = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -days 2"
            command = [*request.split(), "-keyout", str(key), "-out", str(certificate)]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            files[f"{name}.crt"], files[f"{name}.key"] = str(certificate), str(key)
        return files

    def test_a_pair(self, check: Check, configuration: dict[str, Any], pem: dict[str, str]) -> None:
        tls = {"DicomTlsCertificate": pem["one.crt"], "DicomTlsPrivateKey": pem["one.key"]}
        trusted = {"DicomTlsTrustedCertificates": pem["other.crt"], "HttpsCACertificates": pem["other.crt"]}
        code, report = check(configuration | {"DicomTlsEnabled": True} | tls | trusted)
        assert (code, not_passed(report)) == (0, {})
        assert any(outcome["Check"] == "DICOM certificates" for outcome in report["Checks"])

    @pytest.mark.parametrize(
        ("key", "trusted"), [("other.key", "one.crt"), ("one.key", "one.key"), ("one.crt", "one.crt")]
    )
    def test_files_that_do_not_fit(
        self, check: Check, configuration: dict[str, Any], pem: dict[str, str], key: str, trusted: str
    ) -> None:
        tls = {"DicomTlsCertificate": pem["one.crt"], "DicomTlsPrivateKey": pem[key]}
        code, report = check(
            configuration | {"DicomTlsEnabled": True, "DicomTlsTrustedCertificates": pem[trusted]} | tls
        )
        assert code == 1
        assert "DicomTls" in not_passed(report)["DICOM certificates"]

    def test_a_key_with_a_password_is_refused_and_nobody_is_asked(
        self, check: Check, configuration: dict[str, Any], pem: dict[str, str], tmp_path: Path
    ) -> None:
        locked = str(tmp_path / "locked.key")
        command = ["openssl", "pkcs8", "-topk8", "-in", pem["one.key"], "-out", locked, "-passout", "pass:hidden"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        tls = {"DicomTlsCertificate": pem["one.crt"], "DicomTlsPrivateKey": locked}
        _, report = check(configuration | {"DicomTlsTrustedCertificates": pem["one.crt"]} | tls)
        assert "encrypted" in not_passed(report)["DICOM certificates"]

    def test_https_of_the_rest_api(
        self, check: Check, configuration: dict[str, Any], pem: dict[str, str], tmp_path: Path
    ) -> None:
        both = tmp_path / "both.pem"
        both.write_text(Path(pem["one.crt"]).read_text() + Path(pem["one.key"]).read_text())
        code, report = check(configuration | {"SslEnabled": True, "SslCertificate": str(both)})
        assert (code, not_passed(report)) == (0, {})
        code, report = check(configuration | {"SslEnabled": True, "SslCertificate": pem["one.crt"]})
        assert "SslCertificate" in not_passed(report)["HTTPS certificate"]

    def test_an_authority_that_is_none(self, check: Check, configuration: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "ca.pem").write_text("nothing")
        _, report = check(configuration | {"HttpsCACertificates": str(tmp_path / "ca.pem")})
        assert "HttpsCACertificates" in not_passed(report)["Object store's authority"]
