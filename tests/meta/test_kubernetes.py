"""The manifests in contrib/kubernetes/: valid by the cluster's own schemas, and in agreement with each other, with the
programs' command lines and with contrib/fleet/haproxy.cfg. The schemas are those of kubeconform, as the package
kubernetes-validate brings them; no cluster is asked."""

import re
import shutil
import subprocess

import pytest

from mproxy.programs.sproxy_options import parse_sproxy
from tests.meta.sources import ROOT

# Of the packages for tests, which `make test` installs.
kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="not installed: make test does that")
yaml = pytest.importorskip("yaml", reason="not installed: make test does that")

DIRECTORY = ROOT / "contrib" / "kubernetes"
MANIFESTS = [(path.name, document) for path in sorted(DIRECTORY.glob("*.yaml"))
             for document in yaml.safe_load_all(path.read_text())]
OLDEST = "1.31"  # in which ordinals.start is for everybody


def manifest(kind, name):
    found, = (each for _file, each in MANIFESTS if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def pod(kind, name):
    return manifest(kind, name)["spec"]["template"]["spec"]


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
@pytest.mark.parametrize("file, document", MANIFESTS, ids=[
    f"{file}-{document['kind']}-{document['metadata']['name']}" for file, document in MANIFESTS])
def test_valid_by_the_schemas(file, document, version):
    kubernetes_validate.validate(document, version, strict=True)


def test_the_schemas_refuse_what_is_wrong():
    wrong = manifest("PodDisruptionBudget", "sproxy") | {"spec": {"minimum": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, OLDEST, strict=True)


@pytest.mark.parametrize("kind, name", [("StatefulSet", "sproxy"), ("Deployment", "balancer")])
def test_labels_ports_and_volumes_belong_together(kind, name):
    spec = manifest(kind, name)["spec"]
    labels = spec["template"]["metadata"]["labels"]
    budget = manifest("PodDisruptionBudget", name)["spec"]["selector"]["matchLabels"]
    assert spec["selector"]["matchLabels"] == labels == budget
    container, = pod(kind, name)["containers"]
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod(kind, name)["volumes"]}
    for service in (each for _file, each in MANIFESTS if each["kind"] == "Service"):
        if service["spec"]["selector"] == labels:
            wanted = {port.get("targetPort", port["port"]) for port in service["spec"]["ports"]}
            assert wanted <= {value for port in container["ports"] for value in port.values()}
    assert "preStop" in container["lifecycle"]


def test_sproxy_understands_its_arguments():
    container, = pod("StatefulSet", "sproxy")["containers"]
    assert container["args"][0] == "sproxy"
    config = parse_sproxy([word.replace("$(NODE)", "3") for word in container["args"][1:]])
    assert config.node == 3 and config.routed and config.port == container["ports"][0]["containerPort"]
    assert manifest("StatefulSet", "sproxy")["spec"]["serviceName"] == manifest("Service", "sproxy")["metadata"]["name"]
    assert manifest("StatefulSet", "sproxy")["spec"]["ordinals"]["start"] == 1


def test_the_balancers_are_those_of_the_fleet():
    """Goal: what is tried in namespaces is what runs in a cluster, but for names; one line for each pod."""
    text = manifest("ConfigMap", "balancer")["data"]["haproxy.cfg"]
    tried = (ROOT / "contrib" / "fleet" / "haproxy.cfg").read_text()

    def section(config, title):
        body = re.search(rf"^{title}$(.*?)(?=^\S|\Z)", config, re.MULTILINE | re.DOTALL)[1]
        lines = [line.strip() for line in body.splitlines() if line.strip() and not line.strip().startswith("#")]
        return [line for line in lines if not re.match(r"(server|default-server|bind) ", line)]
    for title in ("defaults", "frontend mproxy", "backend sproxies", "frontend alive"):
        assert section(text, title) == section(tried, title), title
    replicas = manifest("StatefulSet", "sproxy")["spec"]["replicas"]
    servers = re.findall(r"^ +server node(\d) sproxy-(\d)\.sproxy\.", text, re.MULTILINE)
    assert servers == [(str(number), str(number)) for number in range(1, replicas + 1)]


def test_haproxy_takes_the_configuration(tmp_path):
    if shutil.which("haproxy") is None:
        pytest.skip("haproxy is not here: make test TESTS=tests/system installs it")
    file = tmp_path / "haproxy.cfg"
    file.write_text(manifest("ConfigMap", "balancer")["data"]["haproxy.cfg"])
    done = subprocess.run(["haproxy", "-c", "-f", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
