"""The files for Kubernetes, as `kubectl apply -k` would send them: rendered by kubectl, checked against the schemas of
Kubernetes, and against Eddy's own settings and commands. No test has a cluster.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from stream.environment import check_unknown, from_environment
from stream.kafka_config import VARIABLES
from tests.deploy.words import parsed
from tests.docs.blocks import ROOT, blocks

FILES = ROOT / "deploy" / "kubernetes"
RENDERED = ("base", "example")
Object = dict[str, Any]

pytestmark = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="THE FILES FOR KUBERNETES WERE NOT CHECKED: no kubectl, which renders them"
)


@pytest.fixture(scope="module", params=RENDERED)
def objects(request: pytest.FixtureRequest) -> dict[str, Object]:
    """What each directory renders to."""
    return rendered(request.param)


def rendered(directory: str, files: Path = FILES) -> dict[str, Object]:
    """Kind -> the object, of which each directory has one."""
    done = subprocess.run(["kubectl", "kustomize", str(files / directory)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    loaded = list(yaml.safe_load_all(done.stdout))
    assert len({each["kind"] for each in loaded}) == len(loaded)
    return {each["kind"]: each for each in loaded}


def pods(objects: dict[str, Object]) -> Iterator[Object]:
    """The pod templates of the workers and of the Job."""
    return (objects[kind]["spec"]["template"] for kind in ("StatefulSet", "Job") if kind in objects)


def container(pod: Object) -> Object:
    [one] = pod["spec"]["containers"]
    assert isinstance(one, dict)
    return one


def environment(objects: dict[str, Object], pod: Object) -> dict[str, str]:
    """The variables of a container, the name of its pod among them."""
    own = {each["name"]: each.get("value", "eddy-worker-0") for each in container(pod).get("env", [])}
    return objects["ConfigMap"]["data"] | own


def test_kubernetes_accepts_every_object(objects: dict[str, Object]) -> None:
    """Names, types and required fields are those of the API. KEDA's object is not in it; its behaviour is that of an
    autoscaler of Kubernetes."""
    for kind, each in objects.items():
        if kind != "ScaledObject":
            kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)
    if "ScaledObject" in objects:
        spec = objects["ScaledObject"]["spec"]
        scaler = {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "eddy-worker"},
            "spec": {
                "maxReplicas": spec["maxReplicaCount"],
                "minReplicas": spec["minReplicaCount"],
                "scaleTargetRef": spec["scaleTargetRef"],
                "behavior": spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"],
            },
        }
        kubernetes_validate.validate(scaler, kubernetes_validate.latest_version(), strict=True)


def test_the_settings_are_those_of_a_worker(objects: dict[str, Object]) -> None:
    """No name is unknown, every value is valid, and no password is in the ConfigMap."""
    environ = environment(objects, objects["StatefulSet"]["spec"]["template"])
    assert check_unknown(environ) == []
    settings = from_environment(environ)
    assert settings.stay_in_group is ("ScaledObject" not in objects)
    assert not environ.keys() & VARIABLES.keys()


def test_no_service_sets_a_variable_that_looks_like_a_setting(objects: dict[str, Object]) -> None:
    """No pod gets variables of the Services of its namespace, so a Service named eddy-http cannot be read as a port."""
    for pod in pods(objects):
        assert pod["spec"]["enableServiceLinks"] is False


def test_eddy_accepts_the_command_lines(objects: dict[str, Object]) -> None:
    """Both containers call a command that exists, with options that it has."""
    for pod in pods(objects):
        environ = environment(objects, pod)
        context = parsed(container(pod)["args"], environ)
        assert context.params["broker"] == environ["EDDY_BROKER"]


def test_a_pod_keeps_its_worker_id(objects: dict[str, Object]) -> None:
    """It is the name of the pod, from which the worker's place in the group is made; the name comes from the headless
    Service of the StatefulSet."""
    workers = objects["StatefulSet"]
    [name] = [each for each in container(workers["spec"]["template"])["env"] if "valueFrom" in each]
    assert name == {"name": "EDDY_WORKER_ID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    service = objects["Service"]
    assert service["metadata"]["name"] == workers["spec"]["serviceName"]
    assert service["spec"]["clusterIP"] == "None"


def test_everything_selects_the_workers(objects: dict[str, Object]) -> None:
    """Of the Service, the budget and the policy, each one's labels are those of the pods, and the Job has others."""
    labels = objects["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    selected = [
        objects["StatefulSet"]["spec"]["selector"]["matchLabels"],
        objects["Service"]["spec"]["selector"],
        objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    for wanted in selected:
        assert wanted.items() <= labels.items()
        if "Job" in objects:
            assert not wanted.items() <= objects["Job"]["spec"]["template"]["metadata"]["labels"].items()


def test_the_port_is_the_one_of_the_worker(objects: dict[str, Object]) -> None:
    """Probes, Service, policy and Prometheus's annotation name the port at which a worker listens."""
    pod = objects["StatefulSet"]["spec"]["template"]
    worker, settings = container(pod), from_environment(environment(objects, pod))
    assert settings.http_host == "0.0.0.0"
    assert worker["ports"] == [{"name": "http", "containerPort": settings.http_port}]
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(settings.http_port)
    assert objects["Service"]["spec"]["ports"] == [{"name": "http", "port": settings.http_port, "targetPort": "http"}]
    assert objects["NetworkPolicy"]["spec"]["ingress"][0]["ports"] == [{"port": "http"}]
    asked = {f"{kind}Probe": worker[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert asked == {
        "startupProbe": {"path": "/livez", "port": "http"},
        "livenessProbe": {"path": "/livez", "port": "http"},
        "readinessProbe": {"path": "/readyz", "port": "http"},
    }


def test_the_pods_have_no_rights_that_they_do_not_need(objects: dict[str, Object]) -> None:
    """Not root, no file system to write to but the mounted directories, no token, no capability."""
    for pod in pods(objects):
        spec, one = pod["spec"], container(pod)
        assert spec["securityContext"]["runAsNonRoot"]
        assert not spec["automountServiceAccountToken"]
        assert one["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {each["name"] for each in one["volumeMounts"]} == {each["name"] for each in spec["volumes"]}
        writable = {v["name"] for v in spec["volumes"] if "emptyDir" in v}
        mounted = {each["mountPath"] for each in one["volumeMounts"] if each["name"] in writable}
        data = environment(objects, pod).get("EDDY_DATA_DIR")
        assert mounted == {"/tmp", data} - {None}
        secret = [each["secretRef"] for each in one["envFrom"] if "secretRef" in each]
        assert secret == [{"name": "eddy-kafka", "optional": True}]


def test_the_secrets_of_the_page_are_those_of_the_pods(objects: dict[str, Object]) -> None:
    """Their names, and each variable is one that Eddy knows. The file is where the variable says."""
    [text] = [block.text for block in blocks(ROOT / "docs" / "kubernetes.md") if "create secret" in block.text]
    given = dict(re.findall(r"--from-literal=(\w+)=(\S+)", text))
    assert given
    assert given.keys() <= VARIABLES.keys()
    for pod in pods(objects):
        one = container(pod)
        places = {each["name"]: each["mountPath"] for each in one["volumeMounts"]}
        files = {v["secret"]["secretName"]: places[v["name"]] for v in pod["spec"]["volumes"] if "secret" in v}
        variables = {each["secretRef"]["name"] for each in one["envFrom"] if "secretRef" in each}
        assert set(re.findall(r"create secret generic (\S+)", text)) == variables | files.keys()
        [file] = re.findall(r"--from-file=(\S+)", text)
        assert given["EDDY_KAFKA_SSL_CA_LOCATION"] in {f"{place}/{file}" for place in files.values()}


def test_keda_reads_the_lag_of_the_workers() -> None:
    """The same brokers, group and topic as the workers, no more workers than partitions, and no number of replicas
    that each apply would set again."""
    objects = rendered("example")
    settings = from_environment(environment(objects, objects["StatefulSet"]["spec"]["template"]))
    spec = objects["ScaledObject"]["spec"]
    [trigger] = spec["triggers"]
    assert trigger["type"] == "kafka"
    read = trigger["metadata"]
    assert (read["bootstrapServers"], read["consumerGroup"], read["topic"]) == (
        settings.broker,
        settings.group,
        settings.topics.clicks,
    )
    created = parsed(container(objects["Job"]["spec"]["template"])["args"], objects["ConfigMap"]["data"])
    assert spec["maxReplicaCount"] == created.params["partitions"]
    assert spec["scaleTargetRef"]["name"] == objects["StatefulSet"]["metadata"]["name"]
    assert "replicas" not in objects["StatefulSet"]["spec"]


def test_keda_alone_fits_the_settings_of_the_base() -> None:
    """Who adds KEDA and changes no setting has the base's brokers, group and topic."""
    [trigger] = yaml.safe_load((FILES / "keda" / "scaledobject.yaml").read_text())["spec"]["triggers"]
    lines = (FILES / "base" / "settings.env").read_text().splitlines()
    settings = from_environment(dict(line.split("=", 1) for line in lines if not line.startswith("#")))
    read = trigger["metadata"]
    assert (read["bootstrapServers"], read["consumerGroup"], read["topic"]) == (
        settings.broker,
        settings.group,
        settings.topics.clicks,
    )


def test_the_patch_of_the_page_gives_each_worker_an_address(tmp_path: Path) -> None:
    """It is appended after the worker id, because Kubernetes replaces only names that come before."""
    [patch] = [block.text for block in blocks(ROOT / "docs" / "kubernetes.md") if block.text.startswith("patches:")]
    shutil.copytree(FILES, tmp_path, dirs_exist_ok=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kustomization.yaml").write_text(f"resources: [../base]\n{patch}")
    objects = rendered("mine", tmp_path)
    pod = objects["StatefulSet"]["spec"]["template"]
    names = [each["name"] for each in container(pod)["env"]]
    assert names.index("EDDY_WORKER_ID") < names.index("EDDY_HTTP_ADVERTISE")
    address = environment(objects, pod)["EDDY_HTTP_ADVERTISE"]
    assert address == f"$(EDDY_WORKER_ID).{objects['Service']['metadata']['name']}:9464"
    assert check_unknown(environment(objects, pod)) == []
