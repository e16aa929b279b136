#!/usr/bin/env python3
"""How `make test` comes by promtool: unpacked from Debian's package, which would start a server on nibble's metrics port.

Runs .ci/promtool in a copy of .ci, on a PATH that has no promtool and an apt-get of the test's own.
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(sys.argv.pop() if len(sys.argv) > 1 else ".").resolve()
PROGRAMS = "bash cp dirname dpkg dpkg-deb env mkdir mktemp mv realpath rm tar".split()
# Only update and download: a script that installs anything fails.
APT_GET = """#!/usr/bin/env bash
case $2 in
  update) exit 0 ;;
  download) [[ -f $PACKAGE ]] && exec cp "$PACKAGE" . ;;
esac
echo "E: no such package" >&2
exit 100
"""


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@unittest.skipUnless(shutil.which("dpkg-deb"), "not a Debian")
class Promtool(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.bin = self.folder / "bin"
        script(self.bin / "apt-get", APT_GET)
        for name in PROGRAMS:
            (self.bin / name).symlink_to(shutil.which(name))
        shutil.copytree(ROOT / ".ci", self.folder / ".ci")
        self.promtool = self.folder / ".tools/bin/promtool"

    def package(self):
        package = self.folder / "package"
        script(package / "usr/bin/promtool", "#!/usr/bin/env bash\necho unpacked\n")
        control = "Package: prometheus\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n"
        script(package / "DEBIAN/control", control)
        built = self.folder / "prometheus.deb"
        subprocess.run(["dpkg-deb", "--build", package, built], check=True, capture_output=True)
        return built

    def run_it(self, package=""):
        return subprocess.run(
            [self.folder / ".ci/promtool"],
            env={"PATH": str(self.bin), "PACKAGE": str(package), "HOME": os.environ.get("HOME", "/")},
            capture_output=True,
            text=True,
            check=False,
        )

    def test_comes_out_of_the_package_and_nothing_is_left_beside_it(self):
        done = self.run_it(self.package())
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        told = subprocess.run([self.promtool], capture_output=True, text=True, check=True).stdout
        self.assertEqual(told, "unpacked\n")
        self.assertEqual([path.name for path in (self.folder / ".tools").iterdir()], ["bin"])

    def test_is_not_brought_again(self):
        script(self.promtool, "the first one")
        self.assertEqual(self.run_it(self.package()).returncode, 0)
        self.assertEqual(self.promtool.read_text(), "the first one")

    def test_no_package_is_a_line_and_no_failure(self):
        done = self.run_it()
        self.assertEqual(done.returncode, 0)
        self.assertEqual(done.stderr, "no promtool, its tests are skipped: E: no such package\n")
        self.assertFalse(self.promtool.exists())

    def test_make_installs_no_package_of_prometheus_itself(self):
        commands = subprocess.run(
            ["make", "-n", "test-deps"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        self.assertIn("libgtest-dev", commands)
        self.assertNotIn("prometheus", commands.replace("prometheus-cpp-dev", ""))


if __name__ == "__main__":
    unittest.main()
