"""Draws vehicles, from trams to bicycles."""

from collections.abc import Iterable

import numpy as np

from icnet.data.street.canvas import CIRCLE, Canvas
from icnet.data.street.palette import BLACK, CAR_PAINTS, GLASS, pick
from icnet.data.street.patterns import grid
from icnet.data.street.people import draw_rider
from icnet.data.street.world import Patch, Pose

_TYRE = (28, 28, 30)
_BUS_PAINTS = ((240, 178, 24), (232, 128, 24), (246, 200, 60), (206, 70, 36))
_TRUCK_BOXES = ((34, 96, 176), (64, 126, 200), (44, 76, 140), (118, 132, 150), (90, 70, 120))
_TRUCK_CABS = ((232, 232, 232), (180, 30, 34), (40, 60, 110), (210, 214, 190))
_TRAM_LIVERIES = ((20, 122, 84), (16, 130, 120), (36, 140, 70), (150, 30, 60))
_MOTORCYCLE_PAINTS = ((214, 28, 30), (240, 100, 20), (200, 20, 60), (36, 66, 150), (70, 72, 78))
_BICYCLE_PAINTS = ((230, 60, 150), (190, 60, 220), (60, 220, 230), (240, 220, 60), (60, 150, 70))


def draw_car(canvas: Canvas, rng: np.random.Generator, pose: Pose) -> None:
    """Draw a saloon, hatchback or van-like car."""
    paint = pick(rng, CAR_PAINTS)
    tall, tail = rng.uniform(1.45, 1.75), rng.uniform(0.0, 0.5)
    body = canvas.solid(pose, (-0.9, -2.15, 0.9, 2.15), (0.22, 0.88), paint, "car", (-0.87, -2.1, 0.87, 2.0))
    for face in body.values():
        canvas.rects(face, [(0, 0, 1, 0.2)], paint * 0.35)
    _wheels(canvas, body, (0.19, 0.8), 0.36, 0.22)
    _lights(canvas, body, 0.55, 0.85)
    cabin = canvas.solid(
        pose, (-0.85, -2.05 + tail, 0.85, 1.05), (0.87, tall), paint * 0.96, "car",
        (-0.66, -1.75 + 1.2 * tail, 0.66, 0.3),
    )  # fmt: skip
    for name, face in cabin.items():
        panes = 1 if name in ("front", "back") else 2
        canvas.rects(face, grid(panes, 1, (0.06, 0.1, 0.94, 0.86), (0.92, 1)), GLASS)
        canvas.shape(face, [(0.1, 0.5), (0.45, 0.86), (0.3, 0.86), (0.08, 0.62)], (108, 126, 144))


def draw_bus(canvas: Canvas, rng: np.random.Generator, pose: Pose) -> None:
    """Draw a city bus: warm colours, a row of big windows, a destination display."""
    paint = pick(rng, _BUS_PAINTS)
    body = canvas.solid(pose, (-1.27, -5.2, 1.27, 5.2), (0.3, 3.15), paint, "bus")
    for name, face in body.items():
        canvas.rects(face, [(0, 0, 1, 0.09)], paint * 0.4)
        canvas.rects(face, [(0, 0.93, 1, 1)], (236, 230, 214))
        if name in ("front", "back"):
            canvas.rects(face, [(0.06, 0.42 if name == "front" else 0.55, 0.94, 0.8)], GLASS)
            canvas.rects(face, [(0.2, 0.82, 0.8, 0.93)], (24, 20, 18))
            canvas.rects(face, grid(5, 1, (0.26, 0.845, 0.74, 0.905), (0.7, 1)), (255, 168, 40))
        else:
            canvas.rects(face, grid(7, 1, (0.02, 0.46, 0.98, 0.82), (0.9, 1)), GLASS)
            canvas.rects(face, [(0.3, 0.06, 0.4, 0.8), (0.84, 0.06, 0.93, 0.8)], (64, 74, 84))
            canvas.rects(face, [(0.0, 0.3, 1.0, 0.36)], (120, 30, 26))
    _wheels(canvas, body, (0.2, 0.76), 0.5, 0.3)
    _lights(canvas, body, 0.2, 0.3)


def draw_truck(canvas: Canvas, rng: np.random.Generator, pose: Pose) -> None:
    """Draw a lorry: a cab and a windowless, ribbed box behind it, wheels in the open."""
    box, cab = pick(rng, _TRUCK_BOXES), pick(rng, _TRUCK_CABS)
    canvas.solid(pose, (-1.0, -3.6, 1.0, 3.4), (0.5, 1.0), (52, 52, 54), "truck")

    def _cab() -> None:
        faces = canvas.solid(pose, (-1.2, 2.0, 1.2, 4.0), (0.4, 2.75), cab, "truck", (-1.15, 2.0, 1.15, 3.75))
        for name, face in faces.items():
            canvas.rects(face, [(0.08, 0.48, 0.92, 0.86) if name == "front" else (0.35, 0.5, 0.92, 0.84)], GLASS)
            canvas.rects(face, [(0, 0, 1, 0.14)], (44, 44, 46))
        if "front" in faces:
            canvas.rects(faces["front"], [(0.25, 0.2, 0.75, 0.38)], (70, 70, 74))
        _wheels(canvas, faces, (0.5,), 0.5, 0.4)
        _lights(canvas, {k: v for k, v in faces.items() if k == "front"}, 0.16, 0.26)

    def _box() -> None:
        faces = canvas.solid(pose, (-1.25, -4.0, 1.25, 1.8), (1.0, 3.5), box, "truck")
        for name, face in faces.items():
            ribs = 2 if name in ("front", "back") else 9
            canvas.rects(face, grid(ribs, 1, (0.02, 0.03, 0.98, 0.97), (0.88, 0.96)), box * 1.12)
            canvas.rects(face, [(0, 0, 1, 0.06), (0, 0.96, 1, 1)], box * 0.6)
            if name in ("left", "right"):
                canvas.rects(face, [(0.2, 0.4, 0.8, 0.66)], (236, 236, 232))
            elif name == "back":
                canvas.rects(face, grid(6, 1, (0.02, 0.0, 0.98, 0.08), (0.55, 1)), (224, 40, 36))
        low = canvas.solid(pose, (-1.2, -3.9, 1.2, 1.7), (0.45, 1.0), (46, 46, 50), "truck")
        _wheels(canvas, low, (0.14, 0.34), 0.5, 0.45)
        _lights(canvas, {k: v for k, v in low.items() if k == "back"}, 0.45, 0.85)

    for part in (_box, _cab) if np.cos(pose.yaw) < 0 else (_cab, _box):
        part()


def draw_train(canvas: Canvas, rng: np.random.Generator, pose: Pose) -> None:
    """Draw a tram of three cars: cream over green or teal, a dark window band, hidden wheels, a pantograph."""
    livery = pick(rng, _TRAM_LIVERIES)
    order = (-1, 0, 1) if np.cos(pose.yaw) < 0 else (1, 0, -1)  # far car first
    for part in order:
        start = part * 6.4
        body = canvas.solid(
            pose, (-1.25, start - 3.1, 1.25, start + 3.1), (0.16, 3.4), (238, 232, 208), "train",
            (-1.12, start - (2.75 if part < 0 else 3.1), 1.12, start + (2.75 if part > 0 else 3.1)),
        )  # fmt: skip
        for name, face in body.items():
            canvas.rects(face, [(0, 0, 1, 0.4)], livery)
            canvas.rects(face, [(0, 0, 1, 0.08)], (60, 62, 64))
            canvas.rects(face, [(0, 0.93, 1, 1)], (112, 116, 120))
            if name in ("front", "back"):
                canvas.rects(face, [(0.1, 0.45, 0.9, 0.82)], (34, 44, 54))
                canvas.rects(face, [(0.3, 0.85, 0.7, 0.92)], (255, 214, 90))
                canvas.rects(face, [(0.08, 0.22, 0.24, 0.31), (0.76, 0.22, 0.92, 0.31)], (255, 250, 226))
            else:
                canvas.rects(face, [(0.02, 0.48, 0.98, 0.8)], (34, 44, 54))
                canvas.rects(face, grid(4, 1, (0.04, 0.5, 0.96, 0.78), (0.88, 1)), (66, 88, 102))
                canvas.rects(face, [(0.42, 0.09, 0.58, 0.8)], (206, 214, 208))
                canvas.rects(face, [(0.44, 0.44, 0.495, 0.76), (0.505, 0.44, 0.56, 0.76)], (54, 70, 82))
        if part == 0:
            roof = pose.board()
            canvas.limb(roof, [(-0.6, 3.4), (0.3, 4.1), (-0.5, 4.7)], 0.14, (70, 70, 74), "train")
            canvas.limb(roof, [(-1.0, 4.7), (0.9, 4.7)], 0.14, (70, 70, 74), "train")


def draw_bicycle(canvas: Canvas, rng: np.random.Generator, pose: Pose, ridden: bool) -> None:
    """Draw a bicycle from the side, more or less turned; ridden or parked. Its label covers wheels and frame whole."""
    board = _turned_board(pose)
    frame = pick(rng, _BICYCLE_PAINTS)
    wheels = [(-0.55, 0.37, 0.37), (0.55, 0.37, 0.37)]
    canvas.shape(board, [(-0.55, 0.1), (0.55, 0.1), (0.42, 0.92), (-0.3, 0.92)], (128, 128, 136), "bicycle")
    canvas.discs(board, wheels, _TYRE, "bicycle")
    canvas.discs(board, [(u, v, 0.29) for u, v, _ in wheels], (176, 178, 186))
    for u, v, radius in wheels:
        for angle in (0.3, 1.35, 2.4):
            du, dv = np.cos(angle) * radius * 0.8, np.sin(angle) * radius * 0.8
            canvas.limb(board, [(u - du, v - dv), (u + du, v + dv)], 0.025, (90, 90, 96))
    canvas.limb(board, [(-0.55, 0.37), (-0.05, 0.36), (0.4, 0.86), (-0.24, 0.8), (-0.55, 0.37)], 0.09, frame, "bicycle")
    canvas.limb(board, [(-0.05, 0.36), (-0.28, 0.95)], 0.08, frame, "bicycle")
    canvas.limb(board, [(0.55, 0.37), (0.38, 0.98), (0.5, 1.04)], 0.09, frame, "bicycle")
    canvas.limb(board, [(-0.4, 0.97), (-0.16, 0.97)], 0.1, BLACK, "bicycle")
    if ridden:
        draw_rider(canvas, rng, board, 0.95, 0.45, leather=False)


def draw_motorcycle(canvas: Canvas, rng: np.random.Generator, pose: Pose, ridden: bool) -> None:
    """Draw a motorcycle from the side, more or less turned; ridden or parked."""
    board = _turned_board(pose)
    paint = pick(rng, _MOTORCYCLE_PAINTS)
    wheels = [(-0.72, 0.36, 0.36), (0.74, 0.36, 0.36)]
    canvas.discs(board, wheels, _TYRE, "motorcycle")
    canvas.discs(board, [(u, v, 0.17) for u, v, _ in wheels], (140, 142, 148))
    canvas.shape(board, [(-0.6, 0.26), (0.45, 0.24), (0.56, 0.72), (-0.5, 0.74)], (62, 62, 68), "motorcycle")
    canvas.discs(board, [(-0.06, 0.42, 0.19), (0.2, 0.42, 0.14)], (164, 166, 170))
    canvas.limb(board, [(-0.2, 0.28), (-0.95, 0.34)], 0.13, (196, 198, 204), "motorcycle")
    canvas.limb(board, [(0.74, 0.36), (0.5, 0.98)], 0.14, (90, 92, 96), "motorcycle")
    canvas.shape(board, [(-0.98, 0.74), (-0.5, 0.62), (0.5, 0.62), (0.62, 0.9), (0.3, 0.98), (-0.1, 0.8), (-0.95, 0.9)],
                 paint, "motorcycle")  # fmt: skip
    canvas.shape(board, [(0.42, 0.62), (0.84, 0.78), (0.62, 1.22), (0.46, 1.12)], paint * 0.9, "motorcycle")
    canvas.limb(board, [(-0.7, 0.88), (-0.1, 0.84)], 0.14, BLACK, "motorcycle")
    canvas.discs(board, [(0.72, 0.9, 0.11)], (255, 250, 214), "motorcycle")
    if ridden:
        draw_rider(canvas, rng, board, 0.88, 0.5, leather=True)


def _wheels(canvas: Canvas, faces: dict[str, Patch], places: Iterable[float], radius: float, low: float) -> None:
    """Put wheels at shares of its length on the visible sides of a body that starts ``low`` metres above the ground."""
    for name in ("left", "right"):
        if name in faces:
            side = faces[name]
            length, height = side.size()
            ring = CIRCLE * (radius / length, radius / height)
            for place in places:
                centre = (place, (radius - low) / height)
                canvas.shape(side, ring + centre, _TYRE, None)
                canvas.shape(side, ring * 0.5 + centre, (150, 152, 156))


def _lights(canvas: Canvas, faces: dict[str, Patch], v0: float, v1: float, inset: float = 0.04) -> None:
    """Put white lamps on a visible front and red ones on a visible back, with a number plate."""
    for name, colour in (("front", (250, 246, 214)), ("back", (214, 24, 26))):
        if name in faces:
            canvas.rects(faces[name], [(inset, v0, 0.22, v1), (0.78, v0, 1 - inset, v1)], colour)
            canvas.rects(faces[name], [(0.37, v0 - 0.16, 0.63, v0)], (226, 226, 200))


def _turned_board(pose: Pose) -> Patch:
    """Return the side view of a two-wheeler whose front points to the heading of ``pose``."""
    return Pose(pose.x, pose.z).board(np.pi / 2 - pose.yaw)
