"""The files of deploy/kubernetes: their schemas, and that they agree with the project."""

import json
import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from typer.testing import CliRunner

from lorasweep.cli import app
from lorasweep.zoo.random.sanity import make_sanity

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/kubernetes"
KUBERNETES = "1.32"

STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
WHOLE = {"type": "integer", "minimum": 0}
TEXT = {"type": "string", "minLength": 1}


def only(required=(), **properties):
    """An object with no other properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


# What KubeRay's v1 types declare of what is used here; a misspelt field would be ignored silently.
# Pod templates are checked by Kubernetes' own schemas.
GROUP = {"rayStartParams": STRINGS, "template": {"type": "object"}}
RAY_JOB = only(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=only(("name",), name=TEXT, namespace=TEXT, labels=STRINGS, annotations=STRINGS),
    spec=only(
        ("entrypoint", "rayClusterSpec"),
        entrypoint=TEXT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
        backoffLimit=WHOLE,
        activeDeadlineSeconds=WHOLE,
        ttlSecondsAfterFinished=WHOLE,
        shutdownAfterJobFinishes={"type": "boolean"},
        runtimeEnvYAML=TEXT,
        rayClusterSpec=only(
            ("headGroupSpec",),
            rayVersion=TEXT,
            enableInTreeAutoscaling={"type": "boolean"},
            headGroupSpec=only(("template", "rayStartParams"), **GROUP),
            workerGroupSpecs={
                "type": "array",
                "items": only(
                    ("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
                    groupName=TEXT,
                    replicas=WHOLE,
                    minReplicas=WHOLE,
                    maxReplicas=WHOLE,
                    numOfHosts=WHOLE,
                    **GROUP,
                ),
            },
        ),
    ),
)


@pytest.fixture
def job():
    return yaml.safe_load((FOLDER / "rayjob.yaml").read_text())


def templates(job):
    cluster = job["spec"]["rayClusterSpec"]
    return [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def pod(template):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template}


def test_the_job_is_one_of_kuberays(job):
    jsonschema.validate(job, RAY_JOB)
    head, *workers = templates(job)
    assert workers
    for template in (head, *workers):
        kubernetes_validate.validate(pod(template), KUBERNETES, strict=True)
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0", "no trials on the head"
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_misspelt_fields_would_be_noticed(job):
    job["spec"]["backofLimit"] = 3
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, RAY_JOB)
    template = templates(job)[0]
    template["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod(template), KUBERNETES, strict=True)


def test_head_and_workers_share_the_volume_and_the_image(job):
    claim = yaml.safe_load((FOLDER / "volume.yaml").read_text())
    kubernetes_validate.validate(claim, KUBERNETES, strict=True)
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    images = set()
    for template in templates(job):
        [volume] = template["spec"]["volumes"]
        [container] = template["spec"]["containers"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/shared"]
        assert template["spec"]["securityContext"]["runAsNonRoot"]
        images.add(container["image"])
    assert len(images) == 1


def test_versions_are_those_of_the_project(job):
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == version("ray")
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    assert pinned["ray"] == version("ray")
    image = (FOLDER / "Dockerfile").read_text()
    project = (ROOT / "pyproject.toml").read_text()
    wanted = re.search(r'requires-python = ">=([\d.]+)', project)[1]
    assert f"ARG PYTHON={wanted}\n" in image


def test_the_image_is_built_of_what_is_there_and_runs_as_a_user():
    lines = (FOLDER / "Dockerfile").read_text().replace("\\\n", "").splitlines()
    steps = [line.split() for line in lines if line and line[0] not in "# "]
    copied = [
        source
        for step in steps
        if step[0] == "COPY" and not step[1].startswith("--from")
        for source in step[1:-1]
    ]
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"}
    assert set(copied) == allowed, "the build sees just what is copied"
    assert all((ROOT / source).exists() for source in copied)
    assert [step[1] for step in steps if step[0] == "USER"] == ["1000:1000"]
    last = max(i for i, step in enumerate(steps) if step[0] == "FROM")
    assert any(step[0] == "USER" for step in steps[last:])


def test_a_login_shell_in_the_image_finds_what_another_does():
    image = (FOLDER / "Dockerfile").read_text()
    [programs] = re.findall(r"^ENV PATH=(.+):\$PATH$", image, re.MULTILINE)
    [line] = re.findall(r"^RUN echo '(.+)' > /etc/profile\.d/\w+\.sh$", image, re.MULTILINE)
    shown = subprocess.run(
        ["bash", "-c", f"PATH=/usr/bin; {line}; echo $PATH"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == f"{programs}:/usr/bin\n"


@pytest.fixture
def entrypoint(job, tmp_path):
    """The job's command, for a dataset in a folder of this machine."""
    return shlex.split(job["spec"]["entrypoint"].replace("/shared", str(tmp_path)))


def test_the_entrypoint_is_a_command_of_lorasweep(entrypoint, tmp_path):
    make_sanity(tmp_path / "adapters", samples=6, classes=3)
    program, *arguments = entrypoint
    assert program == "lorasweep"
    result = CliRunner().invoke(app, [*arguments, "--dry-run"])
    assert result.exit_code == 0, result.output


@pytest.mark.long
def test_the_entrypoint_is_carried_out_by_the_cluster_it_is_in(entrypoint, make_dataset, tmp_path):
    from ray.cluster_utils import Cluster

    make_dataset("adapters")
    head = {"num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    programs = str(Path(sys.executable).parent)
    try:
        cluster.add_node(num_cpus=2)
        done = subprocess.run(
            entrypoint,
            env={
                **os.environ,
                "RAY_ADDRESS": cluster.address,
                "PATH": f"{programs}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=280,
        )
    finally:
        cluster.shutdown()
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "ray_results/adapters/summary.json").read_text())
    assert summary["ran"] == summary["planned"] > 0
    assert list((tmp_path / "feature_cache").rglob("manifest.json"))
