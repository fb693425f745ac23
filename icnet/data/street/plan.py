"""Plans one scene: where the street runs, what stands on it and what the weather is."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from icnet.data.street.buildings import beside, draw_building, draw_fence, draw_wall
from icnet.data.street.canvas import Canvas, Weather
from icnet.data.street.people import draw_person
from icnet.data.street.plants import draw_hedge, draw_tree
from icnet.data.street.roadside import draw_bin, draw_lamp, draw_sign, draw_traffic_light
from icnet.data.street.vehicles import draw_bicycle, draw_bus, draw_car, draw_motorcycle, draw_train, draw_truck
from icnet.data.street.world import FAR, Camera, Pose, Rect

Draw = Callable[..., None]
"""A drawing function: it takes the canvas, its own source of chance, and what says where and what to draw."""

Size = tuple[float, float, float]  # across, along, high

RING_HOUSE, RING_GARDEN, RING_FENCE, RING_WALK, RING_KERB = 9, 8, 7, 6, 5


class Item(NamedTuple):
    """Something that stands in the scene: its paint order, its shadow's base, and how to draw it.

    ``ring`` grows outwards from the own lane (0) to the houses: on one side of the street, what lies in an outer ring
    can never hide what lies in an inner one, and within a ring the nearer hides the farther.
    """

    ring: int
    z: float
    foot: Rect  # x0, z0, x1, z1 on the ground
    height: float
    draw: Callable[[Canvas], None]


@dataclass
class Lane:
    """A strip along the street in which things stand one behind the other."""

    x: float
    ring: int
    yaw: float
    taken: list[tuple[float, float]] = field(default_factory=list)

    def place(self, rng: np.random.Generator, length: float, near: float, far: float) -> float | None:
        """Find a free stretch of ``length`` that starts between ``near`` and ``far``; return its middle, or None."""
        for start in rng.uniform(near, far, 6):
            if all(start > end + 0.5 or start + length < begin - 0.5 for begin, end in self.taken):
                self.taken.append((start, start + length))
                return float(start + length / 2)
        return None


class Street:
    """The plan of one street: where road, pavements and verges lie and what stands on them.

    Args:
        rng: The only source of chance for everything that has a shape.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        """Lay out the street and put everything in its place."""
        self.rng = rng
        self.camera = Camera(rng.uniform(0.38, 0.46), 1 + rng.uniform(-0.2, 0.2), rng.uniform(0.95, 1.15),
                             rng.uniform(1.6, 2.1))  # fmt: skip
        self.weather = self._weather()
        self.lanes = self._lanes()
        self.edges = {-1: -self.lanes[0].x + 1.6, 1: self.lanes[-1].x + 1.4}  # |x| of the kerbs
        self.verge = {side: float(rng.uniform(1.5, 2.6)) * (rng.random() < 0.85) for side in (-1, 1)}
        self.walk = {side: float(rng.uniform(2.2, 3.2)) for side in (-1, 1)}
        self.garden = {side: float(rng.uniform(1.5, 4.0)) for side in (-1, 1)}
        self.items: list[Item] = []
        self._line_the_street()
        self._add_traffic()
        self._add_kerbside()
        self._add_people()

    def _weather(self) -> Weather:
        """Choose sun, brightness of shade and haze."""
        rng = self.rng
        azimuth, rise = rng.uniform(-2.6, 2.6), rng.uniform(0.6, 1.0)
        sun = np.array([np.sin(azimuth) * np.cos(rise), np.sin(rise), -np.cos(azimuth) * np.cos(rise)])
        overcast = rng.random() < 0.3
        haze = np.array([206, 214, 222.0]) if overcast else np.array([196, 212, 232.0]) + rng.normal(0, 8, 3)
        return Weather(sun, 0.84 if overcast else 0.66, haze, float(rng.uniform(0.003, 0.012)))

    def _lanes(self) -> list[Lane]:
        """Return the lanes from left to right: one or two oncoming, the own one, one for parking and cycling."""
        oncoming = [Lane(-3.2, 1, np.pi)]
        if self.rng.random() < 0.5:
            oncoming.insert(0, Lane(-6.3, 2, np.pi))
        return [*oncoming, Lane(0.0, 0, 0.0), Lane(2.9, 1, 0.0)]

    def _add(self, ring: int, foot: Rect, height: float, draw: Draw, *args: object) -> None:
        """Put something into the scene; each gets a chance of its own, so none disturbs another."""
        child = np.random.default_rng(self.rng.integers(1 << 62))
        x0, z0, x1, z1 = foot
        self.items.append(Item(ring, min(z0, z1), foot, height, lambda canvas: draw(canvas, child, *args)))

    def _add_at(self, ring: int, pose: Pose, size: Size, draw: Draw, *args: object) -> None:
        """Put something of ``size`` at a pose."""
        across, along, high = size
        cos, sin = abs(np.cos(pose.yaw)), abs(np.sin(pose.yaw))
        dx, dz = (across * cos + along * sin) / 2, (across * sin + along * cos) / 2
        self._add(ring, (pose.x - dx, pose.z - dz, pose.x + dx, pose.z + dz), high, draw, pose, *args)

    def _line_the_street(self) -> None:
        """Put houses along both sides, and walls, fences and hedges before them."""
        rng = self.rng
        for side in (-1, 1):
            front = self.edges[side] + self.verge[side] + self.walk[side]
            self._add_houses(side, front + 0.5 + self.garden[side])
            z = float(rng.uniform(4, 6))
            first = ["wall", "fence"] if (rng.random() < 0.5) == (side > 0) else ["fence", "wall"]
            for kind in [*first, *rng.permutation(["wall", "fence", "hedge", "open"])]:
                end = z + float(rng.uniform(5, 9))
                foot = beside(side, front, 0.4, z, end)
                if kind == "wall":
                    self._add(RING_FENCE, foot, 2.0, draw_wall, side, front, z, end)
                elif kind == "fence":
                    self._add(RING_FENCE, foot, 1.7, draw_fence, side, front, z, end)
                elif kind == "hedge":
                    self._add(RING_FENCE, foot, 1.5, draw_hedge, side * (front + 0.4), z, end)
                z = end + float(rng.uniform(0, 1.5))

    def _add_houses(self, side: int, front: float) -> None:
        """Put a row of houses with gaps and garden trees along one side."""
        rng, z = self.rng, 3.0
        while z < FAR - 8:
            end = z + float(rng.uniform(7, 14))
            if rng.random() < 0.78:
                setback, depth = front + float(rng.uniform(0, 1.2)), float(rng.uniform(7, 10))
                foot = beside(side, setback, depth, z, end)
                self._add(RING_HOUSE, foot, 7.0, draw_building, side, setback, depth, z, end)
            else:
                end = z + 6
                for _ in range(3):
                    tree = Pose(side * (front + float(rng.uniform(0, 5))), float(rng.uniform(z + 0.5, end - 0.5)))
                    self._add_at(RING_HOUSE, tree, (2.5, 2.5, 5), draw_tree)
            if rng.random() < 0.4:
                tree = Pose(side * (front - self.garden[side] / 2), float(rng.uniform(max(z, 9), max(end, 10))))
                self._add_at(RING_GARDEN, tree, (2.5, 2.5, 5), draw_tree)
            z = end

    def _add_traffic(self) -> None:
        """Fill the lanes: the big vehicles first, then two-wheelers, then cars where there is room."""
        rng, left, own, right = self.rng, self.lanes[:-2], self.lanes[-2], self.lanes[-1]
        big: list[tuple[Draw, Size]] = [
            (draw_train, (2.5, 19.2, 3.5)), (draw_bus, (2.5, 10.4, 3.2)), (draw_truck, (2.5, 8.0, 3.5)),
        ]  # fmt: skip
        car = (1.8, 4.3, 1.5)
        if rng.random() < 0.75:
            self._drive([*left, own, right][int(rng.integers(len(left) + 2))], car, (6, 10), draw_car)
        for index in rng.permutation(3):
            draw, size = big[int(index)]
            lanes = left if draw is draw_train else [*left, own, right]
            for choice in rng.permutation(len(lanes)) if rng.random() < 0.9 else ():
                lane = lanes[int(choice)]
                if self._drive(lane, size, (9 if lane is own else 6, 17), draw):
                    break
        for draw, size in ((draw_motorcycle, (0.6, 2.1, 1.4)), (draw_bicycle, (0.5, 1.8, 1.4))):
            for _ in range(2):
                lane = [left[-1], own, right][int(rng.integers(3))]
                z = lane.place(rng, 2.0, 5.0 if lane is right else 5.5, 13)
                if z is not None:
                    turn = float(rng.uniform(0.9, 2.2)) * float(rng.choice((-1, 1)))
                    x = lane.x + float(rng.uniform(-0.5, 0.5))
                    self._add_at(lane.ring, Pose(x, z, turn), size, draw, True)
        for _ in range(9):
            self._drive([*left, own, right, right][int(rng.integers(len(left) + 3))], car, (6, 28), draw_car)

    def _drive(self, lane: Lane, size: Size, span: tuple[float, float], draw: Draw) -> bool:
        """Put a vehicle into a lane if there is room, and tell whether there was."""
        z = lane.place(self.rng, size[1], *span)
        x = lane.x + float(self.rng.uniform(-0.25, 0.25))
        wobble = float(self.rng.normal(0, 0.03))
        if z is not None:
            self._add_at(lane.ring, Pose(x, z, lane.yaw + wobble), size, draw)
        return z is not None

    def _add_kerbside(self) -> None:
        """Put lamps, traffic lights, signs and trees along both kerbs, each with a stretch of its own."""
        rng = self.rng
        for side in (-1, 1):
            x = side * (self.edges[side] + 0.6)
            z = float(rng.uniform(6.0, 7.5))
            for draw in rng.permutation(np.array([draw_lamp, draw_traffic_light, draw_sign, draw_sign, draw_tree])):
                self._add_at(RING_KERB, Pose(x, z), (0.5, 0.5, 4.0), draw)
                z += float(rng.uniform(1.8, 3.4))
            for draw in (draw_lamp, draw_tree):
                z += float(rng.uniform(3.0, 7.0))
                self._add_at(RING_KERB, Pose(x, z), (0.5, 0.5, 4.0), draw)

    def _add_people(self) -> None:
        """Put walkers, parked two-wheelers and bins on both pavements."""
        rng = self.rng
        for side in (-1, 1):
            inner = self.edges[side] + max(self.verge[side], 1.0)
            outer = self.edges[side] + self.verge[side] + self.walk[side] - 0.3
            strip = Lane(0, RING_WALK, 0.0)
            furniture = [(draw_bicycle, (1.8, 0.5, 1.0), False), (draw_motorcycle, (2.0, 0.6, 1.1), False)]
            for draw, size, ridden in (furniture[int(i)] for i in rng.permutation(2)):
                z = strip.place(rng, 0.6, 6.5, 13)
                if z is not None and rng.random() < 0.6:
                    turn = float(rng.choice((-1, 1))) * float(rng.uniform(1.2, 1.9))
                    self._add_at(RING_WALK, Pose(side * (inner + outer) / 2, z, turn), size, draw, ridden)
            for _ in range(int(rng.integers(4, 7))):
                z = strip.place(rng, 0.4, 5.5, 15)
                if z is not None:
                    pose = Pose(side * float(rng.uniform(inner, outer)), z)
                    self._add_at(RING_WALK, pose, (0.5, 0.5, 1.7), draw_person)
            z = strip.place(rng, 0.7, 7, 15)
            if z is not None and rng.random() < 0.4:
                self._add_at(RING_WALK, Pose(side * (outer - 0.2), z), (0.7, 0.7, 1.0), draw_bin)
        z = self.lanes[-2].place(rng, 0.6, 7, 16)
        if z is not None and rng.random() < 0.6:
            self._add_at(0, Pose(float(rng.uniform(-1.2, 1.2)), z), (0.5, 0.5, 1.7), draw_person)
