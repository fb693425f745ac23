"""The page in ``web/``, in a real browser: the labels of ONNX Runtime in Python, no request to anybody else."""

import http.server
import shutil
import subprocess
import threading
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

import icnet
from icnet.deploy.export import GraphSpec, export_verified
from icnet.deploy.trained_network import read_network

WEB = Path(__file__).parents[2] / "web"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage",
    "--no-first-run", "--enable-logging=stderr", "--remote-debugging-port=0", "--window-size=1000,1200",
)  # fmt: skip
# Waits for the page to be done, then tells the server what it shows.
PROBE = """<script type="module">
for (;;) {
  const failed = document.querySelector("#status.failed");
  if (failed || document.body.dataset.done) {
    const body = failed ? failed.textContent : window.icnet.labels().values;
    const size = failed ? "" : `${window.icnet.labels().width}x${window.icnet.labels().height}`;
    const legend = [...document.querySelectorAll("#legend li")].map((item) => item.childNodes[1].textContent);
    await fetch(`/found?size=${size}&legend=${encodeURIComponent(legend.join())}`, { method: "POST", body });
    break;
  }
  await new Promise((resolve) => setTimeout(resolve, 50));
}
</script>"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome on the PATH"),
    pytest.mark.skipif(
        not (WEB / "node_modules" / "onnxruntime-web").exists(), reason="needs 'npm install --prefix web'"
    ),
]


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, puts the probe into the page, and keeps what that tells."""

    extensions_map = {".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm",
                      ".html": "text/html", ".css": "text/css", "": "application/octet-stream"}  # fmt: skip

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path.partition("?")[0] != "/index.html":
            super().do_GET()
            return
        page = (Path(self.directory) / "index.html").read_text().replace("</body>", f"{PROBE}</body>").encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def do_POST(self):
        self.server.found = self.path, self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
        self.server.told.set()


@pytest.fixture
def look(tmp_path):
    """Open the page with a model and a sample; returns what the probe told, and what was asked for."""

    def open_page(model: Path | None, sample: Path):
        site = tmp_path / "site"
        shutil.copytree(WEB, site, ignore=shutil.ignore_patterns("node_modules", "*.onnx"))
        (site / "node_modules").symlink_to((WEB / "node_modules").resolve())
        shutil.copy(sample, site / "sample.png")
        if model:
            shutil.copy(model, site / "icnet.onnx")
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=site)) as server:
            server.asked, server.found, server.told = [], None, threading.Event()
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_port}/index.html"
            profile = f"--user-data-dir={tmp_path / 'profile'}"
            # In the browser's virtual time a budget would be over before WebAssembly is, whose threads it does not see.
            with (tmp_path / "browser.log").open("wb") as log:
                browser = subprocess.Popen([BROWSER, *FLAGS, profile, address], stdout=log, stderr=log)
            try:
                server.told.wait(300)
            finally:
                browser.terminate()
                browser.wait(60)
                server.shutdown()
        said = (tmp_path / "browser.log").read_text(errors="replace")
        assert server.found, said
        assert "Uncaught" not in said
        return server.found, server.asked

    return open_page


def exported(checkpoint: Path, path: Path, height: int, width: int, head: str, *, normalize: bool) -> Path:
    spec = GraphSpec(height, width, head=head, normalize=normalize)
    export_verified(read_network(checkpoint), path, spec)
    return path


@pytest.mark.parametrize(("head", "normalize"), [("argmax", True), ("logits", False)])
def test_labels_of_the_browser_are_those_of_onnx_runtime(look, tmp_path, save_ours, make_net, head, normalize):
    image = cv2.resize(cv2.imread(str(WEB / "sample.png")), (160, 96), interpolation=cv2.INTER_AREA)
    sample = tmp_path / "sample.png"
    cv2.imwrite(str(sample), image)
    model = exported(
        save_ours(make_net(), tmp_path / "a.ckpt"), tmp_path / "a.onnx", 96, 160, head, normalize=normalize
    )
    (told, labels), asked = look(model, sample)
    wanted = icnet.load(model)(sample)
    assert "size=160x96" in told
    found = np.frombuffer(labels, np.uint8).reshape(96, 160)
    assert len(np.unique(wanted)) > 3  # one class everywhere would prove nothing
    assert (found == wanted).mean() >= 0.999
    names = icnet.load(model).classes.names
    counts = np.bincount(wanted.ravel(), minlength=len(names))
    assert told.partition("legend=")[2].split("%2C")[0] == names[counts.argmax()].replace(" ", "%20")
    assert {path.partition("?")[0].split("/")[1] for path in asked} <= {
        "index.html", "style.css", "app.js", "network.js", "onnx.js", "icnet.onnx", "sample.png", "node_modules"
    }  # fmt: skip


def test_picture_of_another_shape_keeps_it_and_loses_the_filling(look, tmp_path, save_ours, make_net):
    sample = tmp_path / "tall.png"
    cv2.imwrite(str(sample), np.full((200, 100, 3), 128, np.uint8))
    model = exported(save_ours(make_net(), tmp_path / "a.ckpt"), tmp_path / "a.onnx", 96, 160, "argmax", normalize=True)
    (told, labels), _ = look(model, sample)
    assert "size=48x96" in told
    assert len(labels) == 48 * 96


def test_missing_network_is_said_on_the_page(look, tmp_path):
    (told, text), _ = look(None, WEB / "sample.png")
    assert text.decode() == (
        "The network cannot be loaded: there is no icnet.onnx; export one as web/README.md says"
    ), told
