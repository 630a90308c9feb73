"""Formats the data directory of a broker as Kafka's storage tool does, but runs the tool only once.

The tool writes two files. bootstrap.checkpoint has the feature levels of a new cluster and is the same for every
cluster of one version, so it is kept beside the jars. meta.properties has three ids. The tool is a Java program of its
own, and its start costs a third of a broker's.
"""

import base64
import fcntl
import subprocess
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

CLUSTER = "ZWRkeS1rYWZrYS10ZXN0cw"

SMALLEST = """process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:1
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:2,CONTROLLER://127.0.0.1:1
log.dirs={data}
"""
"""Properties for the storage tool, which connects to nothing."""


class FormatFailed(Exception):
    """Kafka's storage tool has failed; the text is what it printed."""


def format_storage(java: Sequence[str], libs: Path, data: Path, node: int = 1) -> None:
    """Create the data directory of a broker that has not run yet.

    java  the words that start a class of Kafka
    libs  the directory of the jars; the checkpoint is kept beside it
    node  the broker's node.id
    Raises FormatFailed.
    """
    data.mkdir()
    (data / "bootstrap.checkpoint").write_bytes(_checkpoint(java, libs).read_bytes())
    directory_id = base64.urlsafe_b64encode(b"e" + uuid.uuid4().bytes[1:]).decode().rstrip("=")  # must not begin with -
    (data / "meta.properties").write_text(
        f"version=1\ncluster.id={CLUSTER}\nnode.id={node}\ndirectory.id={directory_id}\n"
    )


def _checkpoint(java: Sequence[str], libs: Path) -> Path:
    kept = libs.with_name(f"{libs.name}.checkpoint")
    with libs.with_name("lock").open("w") as lock, tempfile.TemporaryDirectory() as name:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.is_file():
            properties, data = Path(name) / "server.properties", Path(name) / "data"
            properties.write_text(SMALLEST.format(data=data))
            words = ("kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", str(properties))
            done = subprocess.run(
                [*java, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
            )
            if done.returncode != 0:
                raise FormatFailed(done.stdout[-2000:])
            partial = kept.with_suffix(".partial")
            partial.write_bytes((data / "bootstrap.checkpoint").read_bytes())
            partial.rename(kept)  # last, so that a file with this name is complete
    return kept
