"""Prefix beam search through the outputs of connectionist temporal classification, and the distance of two label sequences.

Prefixes are the nodes of a tree: one node a prefix, however often it leaves the beam and comes back, so that whatever continues
it is told of all its alignments. A prefix in the beam has two log probabilities, of its alignments so far that end in a blank and of
those that end in its last label: the same label again is a new one after the former, and none after the latter.
"""

import math
from typing import NamedTuple

import numpy as np

from ... import _memory
from ..._jit import kernel, loop
from ..._team import parallel

ROOT, NONE = 0, -1
APART = 64  # numbers, or truth values: at least a cache line


class Tree(NamedTuple):
    """The prefixes met so far, (1 + T W,) int64. The root is the empty one."""

    parent: np.ndarray
    label: np.ndarray  # the last one
    child: np.ndarray  # one that continues it; the others are reached through `sibling`
    sibling: np.ndarray
    place: np.ndarray  # in the beam, or NONE


class Beam(NamedTuple):
    """Up to W prefixes and their log probabilities, (W,)."""

    node: np.ndarray  # int64
    blank: np.ndarray  # of the alignments that end in a blank
    label: np.ndarray  # of those that end in the prefix's last label
    whole: np.ndarray  # of both


class Choice(NamedTuple):
    """The best W ways on from the prefixes of a beam, best first; of equals the one found first. (W,)"""

    place: np.ndarray  # int64
    label: np.ndarray  # int64: what is added to the prefix there; NONE if it stays as it is
    score: np.ndarray


class SearchScratch(NamedTuple):
    """Working memory of one search, or of many: with an axis before the others, of rows that may be longer, `held` flat."""

    tree: Tree
    beam: Beam  # the best first
    stay: Beam  # the same prefixes, in the same order, a step later
    after: Beam
    choice: Choice
    symbols: np.ndarray  # (O,): log probabilities of one step
    held: np.ndarray  # (W, O) bool: whether the beam holds this continuation of this prefix; False between steps


def search_scratch(threads: int, T: int, W: int, O: int) -> SearchScratch:
    """Scratch for T steps and W prefixes, one row a thread; rows may be longer: no two threads write to one cache line."""

    def empty(n, dtype=np.float64):
        return _memory.aligned((threads, -(-n // APART) * APART), dtype)

    tree = Tree(*(empty(1 + T * W, np.int64) for _ in Tree._fields))
    beams = [Beam(empty(W, np.int64), empty(W), empty(W), empty(W)) for _ in range(3)]
    choice = Choice(empty(W, np.int64), empty(W, np.int64), empty(W))
    held = empty(W * O, np.bool_)
    held.fill(False)
    return SearchScratch(tree, *beams, choice, empty(O), held)


@loop
def _beam_of(beam, who):
    return Beam(beam.node[who], beam.blank[who], beam.label[who], beam.whole[who])


@loop
def _own(scratch, who, W, O):
    """One thread's part, for W prefixes and O symbols."""
    tree, beam, stay, after, choice, symbols, held = scratch
    return SearchScratch(
        Tree(tree.parent[who], tree.label[who], tree.child[who], tree.sibling[who], tree.place[who]),
        _beam_of(beam, who), _beam_of(stay, who), _beam_of(after, who),
        Choice(choice.place[who, :W], choice.label[who, :W], choice.score[who, :W]), symbols[who, :O], held[who, : W * O].reshape(W, O),
    )  # fmt: skip


@parallel
@loop
def beam_search(who, item, first, logits, lengths, blank, counts, labels, scores, scratch):
    """Sequence b = first + item: fills labels[b] (W, T) and scores[b] (W,) with the most probable prefixes found, best first.

    logits (T, B, O) float64, of which lengths[b] steps are read; labels int64, in which NONE stands behind a prefix's end; counts (B,)
    int64: how many there are.
    """
    b = first + item
    counts[b] = _search(logits, b, lengths[b], blank, labels[b], scores[b], _own(scratch, who, labels.shape[1], logits.shape[2]))


@loop
def _search(logits, b, steps, blank, labels, scores, scratch):
    """How many prefixes were found."""
    tree, beam, stay, after, choice, symbols, held = scratch
    tree.parent[ROOT] = tree.label[ROOT] = tree.child[ROOT] = tree.sibling[ROOT] = NONE
    tree.place[ROOT] = 0
    beam.node[0], beam.blank[0], beam.label[0], beam.whole[0] = ROOT, 0.0, -np.inf, 0.0
    count, nodes = 1, 1
    for t in range(steps):
        largest = _log_softmax(logits[t, b], symbols)
        _stay(count, blank, tree, beam, stay, symbols, held)
        chosen = _choose(count, blank, largest, tree, beam, stay, symbols, held, choice)
        _let_go(count, tree, beam, held)
        nodes = _move(chosen, nodes, tree, beam, stay, choice, after)
        beam, after, count = after, beam, chosen
    for w in range(count):
        scores[w] = beam.whole[w]
        _write(beam.node[w], tree, labels[w])
    return count


@loop
def _log_softmax(z, symbols):
    """Fills symbols; returns the largest."""
    top, total = z[0], 0.0
    for k in range(z.shape[0]):
        top = max(top, z[k])
    for k in range(z.shape[0]):
        total += math.exp(z[k] - top)
    for k in range(z.shape[0]):
        symbols[k] = (z[k] - top) - math.log(total)
    return -math.log(total)


@loop
def _log_add(a, b):
    """log(e**a + e**b)."""
    high, low = max(a, b), min(a, b)
    return high if low == -np.inf else high + math.log1p(math.exp(low - high))


@loop
def _continued(i, label, tree, beam):
    """The log probability with which `label`, if it comes next, is added to prefix i."""
    return beam.blank[i] if tree.label[beam.node[i]] == label else beam.whole[i]


@loop
def _stay(count, blank, tree, beam, stay, symbols, held):
    """The prefixes of the beam a step later: after a blank, their last label once more, or that label new, behind their parent."""
    for i in range(count):
        node, label = beam.node[i], tree.label[beam.node[i]]
        stay.blank[i], stay.label[i] = beam.whole[i] + symbols[blank], -np.inf
        if node != ROOT:
            stay.label[i] = beam.label[i] + symbols[label]
            j = tree.place[tree.parent[node]]
            if j != NONE:
                held[j, label] = True
                stay.label[i] = _log_add(stay.label[i], _continued(j, label, tree, beam) + symbols[label])
        stay.whole[i] = _log_add(stay.blank[i], stay.label[i])


@loop
def _choose(count, blank, largest, tree, beam, stay, symbols, held, choice):
    """Fills `choice`, and returns how many there are: what has no probability is not one."""
    chosen, W = 0, choice.score.shape[0]
    for i in range(count):
        chosen = _offer(i, NONE, stay.whole[i], chosen, choice)
    for i in range(count):
        if chosen == W and beam.whole[i] + largest <= choice.score[W - 1]:
            break  # nor do those after it, which are less probable, have anything better
        for label in range(symbols.shape[0]):
            if label != blank and not held[i, label]:
                chosen = _offer(i, label, _continued(i, label, tree, beam) + symbols[label], chosen, choice)
    return chosen


@loop
def _offer(place, label, score, chosen, choice):
    """Put into its order what is among the best; returns the new number of those chosen."""
    W = choice.score.shape[0]
    if score == -np.inf or (chosen == W and not score > choice.score[W - 1]):
        return chosen
    w = min(chosen, W - 1)
    while w > 0 and choice.score[w - 1] < score:
        choice.place[w], choice.label[w], choice.score[w] = choice.place[w - 1], choice.label[w - 1], choice.score[w - 1]
        w -= 1
    choice.place[w], choice.label[w], choice.score[w] = place, label, score
    return min(chosen + 1, W)


@loop
def _let_go(count, tree, beam, held):
    """The beam's prefixes have no place any more."""
    for i in range(count):
        node = beam.node[i]
        if node != ROOT and tree.place[tree.parent[node]] != NONE:
            held[tree.place[tree.parent[node]], tree.label[node]] = False
    for i in range(count):
        tree.place[beam.node[i]] = NONE


@loop
def _move(chosen, nodes, tree, beam, stay, choice, after):
    """The chosen ones are the beam `after`; returns the new number of nodes."""
    for w in range(chosen):
        i = choice.place[w]
        node = beam.node[i]
        if choice.label[w] == NONE:
            after.blank[w], after.label[w] = stay.blank[i], stay.label[i]
        else:
            after.blank[w], after.label[w] = -np.inf, choice.score[w]
            node = _child(node, choice.label[w], nodes, tree)
            nodes = max(nodes, node + 1)
        after.node[w], after.whole[w], tree.place[node] = node, choice.score[w], w
    return nodes


@loop
def _child(node, label, nodes, tree):
    """The prefix `node` and then `label`: node number `nodes`, if it is a new one."""
    child = tree.child[node]
    while child != NONE and tree.label[child] != label:
        child = tree.sibling[child]
    if child != NONE:
        return child
    tree.parent[nodes], tree.label[nodes], tree.child[nodes] = node, label, NONE
    tree.sibling[nodes], tree.child[node] = tree.child[node], nodes
    return nodes


@loop
def _write(node, tree, labels):
    """The labels of a prefix, first to last, and NONE behind them."""
    length, at = 0, node
    while at != ROOT:
        at, length = tree.parent[at], length + 1
    labels[length:] = NONE
    for k in range(length - 1, -1, -1):
        labels[k], node = tree.label[node], tree.parent[node]


@kernel
def edit_distance(a, b, row):
    """Insertions, deletions and substitutions, as few as can be, from a (n,) to b (m,), int64; row (m + 1,) int64 is scratch."""
    for j in range(row.shape[0]):
        row[j] = j
    for i in range(a.shape[0]):
        diagonal, row[0] = row[0], i + 1
        for j in range(b.shape[0]):
            changed = diagonal + (0 if a[i] == b[j] else 1)
            diagonal = row[j + 1]
            row[j + 1] = min(changed, diagonal + 1, row[j] + 1)
    return row[b.shape[0]]
