"""What .ci/run gets by itself where it is missing: the servers that the tests of the sinks need."""

import os
import re
import subprocess
from pathlib import Path

from tests.docs.blocks import ROOT

SCRIPT = (ROOT / ".ci" / "run").read_text()
SERVER = "usr/lib/postgresql/15/bin/odd-server"
APT = """#!/bin/sh
case "$*" in
  *--simulate*) printf 'Inst libodd1 (1 Debian [all])\\nInst odd (2 Debian [all])\\nConf odd (2 Debian [all])\\n' ;;
  *download*) shift 2; for name; do touch "${name}_1_all.deb"; done ;;
esac
"""
DPKG = f"""#!/bin/sh
echo "$2" >> unpacked
mkdir -p {os.path.dirname(SERVER)}
printf '#!/bin/sh\\necho it runs\\n' > {SERVER}
chmod +x {SERVER}
"""


def test_each_server_of_the_tests_is_unpacked() -> None:
    """And its tests are then required."""
    named = set(re.findall(r'program\("([^"]+)"\)', (ROOT / "tests" / "servers.py").read_text()))
    assert named == set(re.findall(r"^\(unpack_server (\S+) \S+\)", SCRIPT, re.MULTILINE))
    required = SCRIPT.partition("EDDY_REQUIRE_SERVERS=1")[0]
    assert all(f"command -v {name}" in required for name in named)


def test_a_server_is_unpacked_with_what_it_needs_and_found(tmp_path: Path) -> None:
    """Of what apt would install, and once. A server of PostgreSQL is in no directory of the PATH."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in (("apt-get", APT), ("dpkg-deb", DPKG)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    [function] = re.findall(r"^unpack_server\(\) \{.*?^\}", SCRIPT, re.MULTILINE | re.DOTALL)
    command = f"set -euo pipefail\n{function}\n(unpack_server odd-server odd)\n(unpack_server odd-server odd)\n"
    command += 'PATH="$PWD/.cache/servers/usr/bin:$PATH" odd-server\n'
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env={"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "it runs\n"), done.stderr
    servers = tmp_path / ".cache" / "servers"
    assert (servers / "unpacked").read_text().splitlines() == ["libodd1_1_all.deb", "odd_1_all.deb"]
    assert not list(servers.glob("*.deb"))
