"""What an evaluation writes of its scores, from a record alone."""

import csv
import subprocess
import sys
from pathlib import Path

import cv2
import matplotlib as mpl
import pytest
import torch
from matplotlib.figure import Figure

from icnet.data import lettering
from icnet.data.labels import ClassTable
from icnet.deploy.score_files import draw_confusion, print_scores, write_csv
from icnet.run.results import EvaluationRecord

RECORD = EvaluationRecord(miou=0.25, pixel_acc=0.5, iou={"dark": 0.25, "absent": float("nan")})


def test_csv_has_a_row_per_class_and_leaves_empty_what_is_absent(tmp_path):
    write_csv(tmp_path / "iou.csv", RECORD)
    rows = list(csv.reader((tmp_path / "iou.csv").open()))
    assert rows == [
        ["class", "iou"], ["dark", "0.250000"], ["absent", ""],
        ["miou", "0.250000"], ["category_miou", ""], ["pixel_acc", "0.500000"],
    ]  # fmt: skip


def test_table_is_in_percent(capsys):
    print_scores(RECORD, "title")
    printed = capsys.readouterr().out
    assert "25.00" in printed
    assert "absent" in printed


def test_confusion_becomes_a_picture(tmp_path):
    classes = ClassTable(("dark", "bright"), ((0, 0, 0), (9, 9, 9)))
    draw_confusion(tmp_path / "confusion.png", torch.tensor([[3, 1], [0, 0]]), classes, "title")
    assert cv2.imread(str(tmp_path / "confusion.png")) is not None


@pytest.fixture
def ticks(monkeypatch):
    """What stands at the rows of each picture that is written, and its title."""
    found = []

    def note(figure, file, **options):
        axes = figure.axes[0]
        found.append(([label.get_text() for label in axes.get_yticklabels()], axes.get_title()))
        return save(figure, file, **options)

    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", note)
    return found


@pytest.mark.filterwarnings("error")  # matplotlib warns of every letter that it draws as a box
def test_confusion_names_its_classes_in_any_script_or_by_number(tmp_path, monkeypatch, ticks):
    classes = ClassTable(("дорога", "road $1$ and $2", "道路"), ((0, 0, 0), (9, 9, 9), (5, 5, 5)))
    dejavu = f"{mpl.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    lettering.find_font.cache_clear()
    monkeypatch.setattr(lettering, "font_files", lambda: iter([dejavu]))
    for title in ("город, val: best.ckpt", "城市, val: best.ckpt"):
        draw_confusion(tmp_path / "confusion.png", torch.eye(3), classes, title)
    lettering.find_font.cache_clear()
    assert ticks == [
        (["дорога", "road $1$ and $2", "2"], "город, val: best.ckpt"),
        (["дорога", "road $1$ and $2", "2"], ""),
    ]
    assert (tmp_path / "confusion.txt").read_text("utf-8") == "2 道路\n"


def test_files_of_before_stay_where_the_disk_is_full(tmp_path, monkeypatch):
    csv_file, picture = tmp_path / "iou.csv", tmp_path / "confusion.png"
    classes = ClassTable(("dark", "bright"), ((0, 0, 0), (9, 9, 9)))
    write_csv(csv_file, RECORD)
    draw_confusion(picture, torch.eye(2), classes, "before")
    before = csv_file.read_bytes(), picture.read_bytes()

    def full(number):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_csv(csv_file, EvaluationRecord(miou=0.5))
    with pytest.raises(OSError, match="no space left"):
        draw_confusion(picture, torch.eye(2), classes, "after")
    assert (csv_file.read_bytes(), picture.read_bytes()) == before
    assert len(list(tmp_path.iterdir())) == 2


def test_writers_stand_apart_from_the_task_that_counts():
    words = "import sys, icnet.deploy.score_files; print('lightning' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", words], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout == "False\n"
