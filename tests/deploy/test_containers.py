"""The Dockerfile and the compose files hold together, as far as that can be seen without Docker."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings
from tests.deploy.boards import ROOT

DOCKERFILE = ROOT / "Dockerfile"
COMPOSE = ROOT / "docker-compose.yml"
COMPOSE_GPU = ROOT / "deploy/docker-compose.gpu.yml"
HANDED_OUT = [
    DOCKERFILE,
    COMPOSE,
    *(path for path in sorted((ROOT / "deploy").rglob("*")) if path.is_file() and path.suffix != ".pyc"),
]
"""Not what Python writes there while tests are being collected, which each of pytest's processes does for itself."""
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]

PINNED = re.compile(r"[\w./-]+:v?\d+\.\d+\.\d+[\w.-]*")
LOCAL = re.compile(r"https?://(127\.0\.0\.1|localhost|prometheus|winnow)\b")


def _services(file: Path) -> dict[str, dict[str, Any]]:
    services: dict[str, dict[str, Any]] = yaml.safe_load(file.read_text("utf-8"))["services"]
    return services


def _instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, each with what follows it on one line."""
    lines = [line for line in DOCKERFILE.read_text("utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines()) if word]


def _last(instruction: str) -> str:
    return [rest for word, rest in _instructions() if word == instruction][-1]


def _copied() -> list[str]:
    """What the Dockerfile copies from the project."""
    copies = [rest.split()[:-1] for word, rest in _instructions() if word == "COPY"]
    return [source for sources in copies if not sources[0].startswith("--from") for source in sources]


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="no `docker-compose` on the PATH")
@pytest.mark.parametrize("files", [[COMPOSE], [COMPOSE, COMPOSE_GPU]], ids=["CPU", "GPU"])
def test_compose_takes_the_files(files: list[Path]) -> None:
    chosen = [option for file in files for option in ("-f", str(file))]
    subprocess.run(["docker-compose", *chosen, "config", "--quiet"], check=True)


def test_every_mounted_path_of_the_host_exists() -> None:
    for name, service in _services(COMPOSE).items():
        mounts = [volume.split(":")[0] for volume in service["volumes"]]
        for mount in mounts:
            assert not mount.startswith(".") or (ROOT / mount).exists(), f"{name}: {mount}"


def test_every_named_volume_is_declared() -> None:
    declared = set(yaml.safe_load(COMPOSE.read_text("utf-8"))["volumes"])
    named = {v.split(":")[0] for service in _services(COMPOSE).values() for v in service["volumes"]}
    assert {name for name in named if not name.startswith(".")} == declared


def test_every_image_is_pinned_to_a_version() -> None:
    for file in (COMPOSE, COMPOSE_GPU):
        for name, service in _services(file).items():
            assert PINNED.fullmatch(service["image"]), f"{name}: {service['image']}"


def test_the_services_own_image_carries_the_projects_version() -> None:
    assert _services(COMPOSE)["winnow"]["image"] == f"winnow:{VERSION}"
    assert _services(COMPOSE_GPU)["winnow"]["image"] == f"winnow:{VERSION}-gpu"


def test_every_base_image_is_pinned_to_a_version() -> None:
    default = dict(rest.split("=", 1) for word, rest in _instructions() if word == "ARG")
    stages = {rest.split(" AS ")[1] for word, rest in _instructions() if word == "FROM" and " AS " in rest}
    bases = {rest.split()[0] for word, rest in _instructions() if word == "FROM"} - stages
    assert bases
    for base in bases:
        resolved = re.sub(r"\$\{(\w+)\}", lambda found: default[found[1]], base)
        assert PINNED.fullmatch(resolved), resolved


def test_the_dockerfile_copies_only_what_exists_and_what_dockerignore_lets_through() -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line[:1] == "!"}
    for source in _copied():
        assert (ROOT / source).exists(), source
        assert source in let_through


def test_the_container_runs_as_an_ordinary_user_with_a_fixed_number() -> None:
    user, group = _last("USER").split(":")
    assert int(user) >= 10000
    assert int(group) >= 10000


def test_signals_reach_the_process() -> None:
    """The exec form: the shell form would put a shell between, which passes none on."""
    assert json.loads(_last("ENTRYPOINT")) == ["winnow"]
    assert json.loads(_last("CMD")) == ["serve"]


def test_compose_waits_longer_than_the_service_needs_to_stop() -> None:
    grace = int(_services(COMPOSE)["winnow"]["stop_grace_period"].removesuffix("s"))
    assert grace > Settings.model_fields["shutdown_timeout"].default


def test_the_healthcheck_needs_nothing_but_python() -> None:
    command = json.loads(_last("HEALTHCHECK").partition("CMD ")[2])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "healthcheck", "exec")
    assert "/readyz" in command[2]


def test_compose_asks_for_health_as_the_image_does() -> None:
    options, _, command = _last("HEALTHCHECK").partition("CMD ")
    told = dict(option.removeprefix("--").replace("-", "_").split("=") for option in options.split())
    check = _services(COMPOSE)["winnow"]["healthcheck"]
    assert check == {"test": ["CMD", *json.loads(command)], **told, "retries": int(told["retries"])}


def test_every_service_has_a_healthcheck_and_gives_up_its_privileges() -> None:
    for name, service in _services(COMPOSE).items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_winnow_runs_on_a_read_only_file_system() -> None:
    winnow = _services(COMPOSE)["winnow"]
    assert winnow["read_only"] is True
    assert [mount.split(":")[0] for mount in winnow["tmpfs"]] == ["/tmp"]
    assert [volume.split(":")[1] for volume in winnow["volumes"]] == [_last("WORKDIR")]


def test_every_port_is_published_on_this_machine_alone() -> None:
    for name, service in _services(COMPOSE).items():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name


def test_without_keys_winnow_answers_to_names_of_this_machine_alone() -> None:
    """The port that is published on this machine may be asked by any page in its browsers, under a name of its own."""
    winnow = _services(COMPOSE)["winnow"]
    assert winnow["environment"]["WINNOW_OPEN"] == "${WINNOW_OPEN:-true}"
    assert winnow["environment"]["WINNOW_HOSTS"] == "${WINNOW_HOSTS:-localhost,127.0.0.1,winnow}"
    assert "WINNOW_OPEN" not in DOCKERFILE.read_text("utf-8").partition("\nFROM")[2]


def test_every_setting_that_the_container_is_given_exists() -> None:
    known = {f"WINNOW_{name.upper()}" for name in Settings.model_fields}
    named = {key for file in (COMPOSE, COMPOSE_GPU) for key in _services(file)["winnow"]["environment"]}
    given = {key for key in named if not key.startswith("OTEL_")}
    in_image = set(re.findall(r"(WINNOW_\w+)=", DOCKERFILE.read_text("utf-8")))
    assert given | in_image <= known


def test_grafana_finds_what_is_provisioned() -> None:
    grafana = _services(COMPOSE)["grafana"]
    mounts = dict(volume.split(":")[:2][::-1] for volume in grafana["volumes"])
    provisioning = ROOT / "deploy/grafana/provisioning"
    provider = yaml.safe_load((provisioning / "dashboards/winnow.yml").read_text("utf-8"))["providers"][0]
    source = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text("utf-8"))["datasources"][0]
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (ROOT / mounts["/etc/grafana/provisioning"]).samefile(provisioning)
    assert (ROOT / mounts[provider["options"]["path"]] / home.name).is_file()
    assert home.parent == Path(provider["options"]["path"])
    assert source["url"] == "http://prometheus:9090"


def test_prometheus_finds_its_rules_and_its_target() -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text("utf-8"))
    jobs = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    port = Settings.model_fields["port"].default
    assert all((ROOT / "deploy/prometheus" / rules).is_file() for rules in config["rule_files"])
    assert jobs["winnow"] == [f"winnow:{port}"]
    assert _last("EXPOSE") == str(port)


@pytest.mark.parametrize("file", HANDED_OUT, ids=lambda file: file.name)
def test_no_file_names_an_address_of_somebody_else(file: Path) -> None:
    """Whoever builds says where packages come from."""
    text = file.read_text("utf-8")
    assert len(LOCAL.findall(text)) == len(re.findall(r"https?://", text))
