"""The page in a real browser: it loads without errors, asks for nothing, and its script works."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import invented_run
import pytest
from absl.testing import absltest

from llm_dynamics.report import facts_report

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=3000",
)


def browse(path: Path, profile: str, *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [BROWSER, *FLAGS, f"--user-data-dir={profile}", *flags, path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


@pytest.mark.skipif(not BROWSER, reason="needs a browser: apt-get install chromium")
class BrowserTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        study = invented_run.make_run(
            cls.folder / "run", invented_run.small_facts(), invented_run.small_config(), 90
        )
        cls.path = facts_report.write_report(cls.folder / "run", study=study)

    def test_loads_without_errors_or_requests(self):
        done = browse(self.path, str(self.folder / "a"), "--dump-dom")
        titles = re.findall(r"<h2[^>]*>(.*?)</h2>", done.stdout)
        self.assertLen(titles, 9)
        # A refused request and a script error would both be on the console (see the next test).
        self.assertNotIn("CONSOLE", done.stderr)
        # The script ran: sortable heads became buttons.
        self.assertIn('<th scope="col"><button type="button">name</button></th>', done.stdout)

    def test_an_error_would_be_seen(self):
        broken = self.path.with_name("broken.html")
        text = self.path.read_text()
        broken.write_text(text.replace("</main>", '<img src="https://example.org/x.png"></main>'))
        done = browse(broken, str(self.folder / "b"), "--dump-dom")
        self.assertRegex(done.stderr, "CONSOLE.*Content Security Policy")

    def test_it_can_be_looked_at_and_printed(self):
        picture, paper = self.folder / "page.png", self.folder / "page.pdf"
        browse(
            self.path, str(self.folder / "c"), f"--screenshot={picture}", "--window-size=1200,900"
        )
        browse(
            self.path, str(self.folder / "d"), f"--print-to-pdf={paper}", "--no-pdf-header-footer"
        )
        self.assertGreater(picture.stat().st_size, 20_000)
        self.assertTrue(paper.read_bytes().startswith(b"%PDF"))


if __name__ == "__main__":
    absltest.main()
