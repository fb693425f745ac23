"""Pages in a real browser: nothing on the console, pictures there, tables that sort, no page wider than a phone."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest

from icnet.report import write_report
from icnet.report.sweep_page import write_table
from icnet.report.table import tabulate
from icnet.run.paths import RunPaths
from icnet.run.reader import read_run

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage",
    "--no-first-run", "--hide-scrollbars", "--enable-logging=stderr", "--virtual-time-budget=5000",
    "--window-size=1200,900", "--dump-dom",
)  # fmt: skip
PHONE = 390  # pixels

# Runs in the page, which lies in a frame as wide as a phone, and tells the page around it what it found.
PROBE = """<script>
addEventListener("load", () => {
  const tables = [...document.querySelectorAll("table.sortable")].map((table) => {
    const column = (n) => [...table.tBodies[0].rows].map((row) => row.cells[n].innerText.trim());
    const click = (n) => { table.tHead.querySelectorAll("button")[n].click(); return column(n); };
    const heads = [...table.tHead.querySelectorAll("th")];
    return heads.map((head, n) => ({ head: head.innerText, first: click(n), second: click(n), aria: head.ariaSort }));
  });
  const wide = [...document.querySelectorAll("main *")].filter((item) =>
    !item.closest(".box, svg") && item.getBoundingClientRect().right > innerWidth + 1).map((item) => item.outerHTML);
  parent.postMessage(JSON.stringify({
    pictures: [...document.images].map((image) => image.naturalWidth), tables, wide, width: innerWidth,
    scroll: document.documentElement.scrollWidth,
    requests: performance.getEntriesByType("resource").map((it) => it.name).filter((name) => !/^data:/.test(name)),
    plots: [...document.querySelectorAll("svg")].map((svg) => svg.getBoundingClientRect().height),
  }), "*");
});
</script>"""
FRAME = """<!doctype html><title>frame</title><pre id="found"></pre>
<script>addEventListener("message", (event) => document.querySelector("#found").append(event.data));</script>
<iframe src="probe.html" style="width: {width}px; height: 800px; border: 0"></iframe>"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome on the PATH"),
]


@pytest.fixture
def look(tmp_path):
    """Open a page in the browser, as wide as a phone; returns what the probe found."""

    def open_page(path):
        folder = tmp_path / "browser"
        folder.mkdir()
        (folder / "probe.html").write_text(path.read_text().replace("</body>", f"{PROBE}</body>"))
        (folder / "frame.html").write_text(FRAME.format(width=PHONE))
        command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", (folder / "frame.html").as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
        found = json.loads(unescape(re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)[1]))
        assert found["requests"] == []
        assert found["width"] == PHONE
        assert (found["scroll"], found["wide"]) == (PHONE, [])
        return found

    return open_page


def test_page_of_a_training_in_a_browser(run, picture, look, tmp_path):
    iou = {"road": 0.9, "a class with quite a long name of its own": 0.05, "train": None, "pole": 0.25}
    rows = [{"step": step, "train/loss": 5 / (step + 1), "perf/images_per_s": 1.0} for step in range(9, 4600, 10)]
    folder = run(tmp_path / ("run" * 30), iou=iou, curves={"csv": rows}, overrides=[f"data.root=/{'x' * 300}"])
    for name in ("best_1_a.jpg", "worst_1_b.jpg"):
        picture(RunPaths(folder).extremes / name)
    found = look(write_report(folder))
    assert found["pictures"] == [512, 512]
    assert len(found["plots"]) == 3
    assert min(found["plots"]) > 100
    name, numbers, _ = found["tables"][0]
    assert numbers["first"] == ["90.0", "25.0", "5.0", "absent"]
    assert numbers["second"] == ["5.0", "25.0", "90.0", "absent"]
    assert numbers["aria"] == "ascending"
    assert name["first"] == sorted(iou)


def test_page_of_an_evaluation_in_a_browser(evaluation, look, tmp_path):
    found = look(write_report(evaluation(tmp_path / "run")))
    assert found["tables"][0][1]["first"] == ["80.0", "40.0", "absent"]


def test_page_of_a_sweep_in_a_browser(run, look, tmp_path):
    for number, miou in enumerate((0.7, 0.09, 0.5)):
        run(tmp_path / str(number), overrides=["hparams=npu_lr0.1_s32_o1"], final_miou=miou, epochs=20 * (number + 1))
    run(tmp_path / "10", overrides=["hparams=npu_lr0.12_s32_o1"], failure=f"failed: {'x' * 300}")
    runs = [read_run(tmp_path / name) for name in ("0", "1", "2", "10")]
    found = look(write_table(tabulate(runs, "Sweep"), tmp_path))
    columns = {column["head"].replace("\xa0", " ").split(" %")[0].strip(): column for column in found["tables"][0]}
    final = next(column for head, column in columns.items() if head.startswith("final"))
    assert final["first"] == ["70.0", "50.0", "9.0", "-"]
    run_names = [text.split()[0] for text in found["tables"][0][0]["first"]]
    assert run_names == ["0", "1", "2", "10"]
