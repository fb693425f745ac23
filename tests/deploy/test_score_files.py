"""What an evaluation writes of its scores, from a record alone."""

import csv
import subprocess
import sys
from pathlib import Path

import cv2
import torch

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


def test_writers_stand_apart_from_the_task_that_counts():
    words = "import sys, icnet.deploy.score_files; print('lightning' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", words], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout == "False\n"
