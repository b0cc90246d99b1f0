"""The graph and the threshold: the published table, and what makes a graph safe."""

from __future__ import annotations

import math

import pytest

from fedrec.errors import PlanError
from fedrec.secagg.graph import Topology, degree_and_threshold, is_safe, neighbours, topology

RATES = [(0.1, 0.1), (0.2, 0.1), (0.33, 0.1), (0.1, 0.3)]
TABLE = {  # parties: per rate of colluders and of dropouts, (k, t) against a curious and a semi-malicious coordinator
    20: [((6, 3), (8, 6)), ((8, 5), (10, 8)), ((10, 7), (12, 10)), ((10, 3), (16, 10))],
    50: [((12, 6), (16, 11)), ((16, 11), (22, 17)), ((22, 17), (28, 23)), ((22, 6), (36, 21))],
    100: [((22, 11), (32, 22)), ((32, 21), (42, 32)), ((42, 32), (54, 44)), ((34, 11), (72, 42))],
    200: [((34, 19), (56, 39)), ((46, 30), (76, 57)), ((66, 47), (98, 78)), ((54, 21), (134, 78))],
    1000: [((46, 26), (96, 67)), ((68, 44), (140, 104)), ((102, 72), (218, 171)), ((88, 36), (414, 247))],
    5000: [((52, 30), (114, 79)), ((76, 48), (172, 127)), ((120, 84), (286, 223)), ((104, 42), (698, 417))],
}


@pytest.mark.parametrize("parties", TABLE)
@pytest.mark.parametrize("column", range(4))
def test_table_of_degrees_and_thresholds(parties: int, column: int) -> None:
    colluding, dropping = RATES[column]
    curious, malicious = TABLE[parties][column]
    assert degree_and_threshold(parties, colluding, dropping, semi_malicious=False) == curious
    assert degree_and_threshold(parties, colluding, dropping) == malicious
    if parties > 50:
        shape = topology(parties, colluding, dropping)
        assert (shape.neighbours, shape.threshold) == malicious
        assert shape.colluders == math.floor(colluding * parties + 1e-9)


@pytest.mark.parametrize("parties", [8_000, 8_500, 10_000])
def test_neighbours_grow_with_the_logarithm_to_the_largest_sum(parties: int) -> None:
    """The chance per party is below the spacing of floats next to 1 from 8,192 parties on."""
    degree, threshold = degree_and_threshold(parties, 0.1, 0.1) or (0, 0)
    assert degree <= 130
    assert is_safe(Topology(parties, degree, threshold, parties // 10), 0.1, 0.1)


@pytest.mark.parametrize("parties", [100, 200, 1000])
@pytest.mark.parametrize(("colluding", "dropping"), RATES)
def test_party_accepts_what_is_found_and_nothing_weaker(parties: int, colluding: float, dropping: float) -> None:
    degree, threshold = degree_and_threshold(parties, colluding, dropping) or (0, 0)
    colluders = math.floor(colluding * parties)
    assert is_safe(Topology(parties, degree, threshold, colluders), colluding, dropping)
    assert not is_safe(Topology(parties, degree, threshold - 1, colluders), colluding, dropping)
    assert not is_safe(Topology(parties, degree, degree + 1, colluders), colluding, dropping)
    assert not is_safe(Topology(parties, 2, 2, colluders), colluding, dropping)


def test_complete_graph_up_to_fifty() -> None:
    for parties in range(3, 51):
        shape = topology(parties)
        assert shape.complete
        assert shape.threshold == 2 * parties // 3 + 1
        assert 2 * shape.threshold > parties + shape.colluders
        assert shape.colluders <= parties - 2
        assert is_safe(shape, 0.1, 0.1)
        assert not is_safe(Topology(parties, parties - 1, shape.threshold - 1, 0), 0.1, 0.1)
    assert topology(3) == Topology(3, 2, 3, 1), "three parties bear no dropout"
    assert not topology(51).complete
    crowded = topology(60, 0.5, 0.3)
    assert crowded == Topology(60, 59, 46, 31), "where no sparse graph can bear it, all are neighbours"
    assert is_safe(crowded, 0.5, 0.3)
    assert not is_safe(Topology(60, 59, 45, 31), 0.5, 0.3)


@pytest.mark.parametrize("parties", [51, 77, 100, 300])
def test_every_party_has_k_neighbours_who_have_it_too(parties: int) -> None:
    shape = topology(parties)
    near = [set(neighbours(shape, b"seed", index)) for index in range(parties)]
    for index, others in enumerate(near):
        assert len(others) == shape.neighbours
        assert index not in others
        assert all(index in near[other] for other in others)
    assert near != [set(neighbours(shape, b"other", index)) for index in range(parties)], "drawn anew for each seed"


def test_a_circle_is_cut_only_by_two_gaps() -> None:
    """Removing any k - 1 parties in a row, or at random, leaves the others connected."""
    shape = topology(100)
    near = [set(neighbours(shape, b"s", index)) for index in range(100)]
    start = next(iter(near[0]))
    gone = set(list(near[start])[: shape.neighbours - 1])
    left = set(range(100)) - gone
    reached, edge = {start}, {start}
    while edge:
        edge = {other for index in edge for other in near[index] & left} - reached
        reached |= edge
    assert reached == left


@pytest.mark.parametrize("arguments", [(2,), (10_001,), (60, 1.0), (60, 0.1, -0.1)])
def test_impossible_cohorts(arguments: tuple) -> None:
    with pytest.raises(PlanError):
        topology(*arguments)
