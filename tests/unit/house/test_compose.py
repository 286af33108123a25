"""docker-compose.yml against the compose specification's schema, and against our own rule on secrets."""

import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]
COMPOSE = ROOT / "docker-compose.yml"


def test_the_compose_file_fits_the_compose_schema() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_schema_check_can_fail(tmp_path: Path) -> None:
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(COMPOSE.read_text().replace("restart: unless-stopped", "restart: [1]"))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(broken)]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_every_service_that_stays_up_has_a_health_check_or_is_watched() -> None:
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    assert set(services) == {"postgres", "valkey", "migrate", "app", "worker"}
    assert [name for name, service in services.items() if "healthcheck" not in service] == ["migrate"]


def test_no_secret_has_a_default() -> None:
    text = COMPOSE.read_text()
    for secret in ("POSTGRES_PASSWORD", "VALKEY_PASSWORD", "FINESMITH_SECRET_KEY"):
        assert f"${{{secret}:-" not in text
        assert f"${{{secret}:?" in text
