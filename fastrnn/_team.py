"""Work shared between threads inside compiled code: no interpreter, no lock; opening and closing a region takes a microsecond.

A team is an array of words, each on a cache line of its own. Helpers (`serve`) watch its turn. A caller opens a region by making the
turn odd and closes it by making it even; a helper that finds it odd enters, takes items until none is left, and leaves. So a region
needs nobody: who is late finds less to do, or nothing. The caller returns when no helper is inside.

Items are cut into as many runs of neighbours as there are threads. Each thread begins with its own run, the same one in every region,
whose data are in its cache; then it helps with the others'. Which thread computes an item changes no bit of it.

A compiled function that shares its items is called with a team and their `count`, takes its role (`enter`), and goes on accordingly:
as in `parallel`, which makes such a function of what is done for one item. Where that is large, as in the time loops, it is written
out: a function less for the compiler to go over again.
"""

import sys
from functools import cache

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from ._jit import X86, kernel, loop

LINE = 8  # words of a cache line
TURN, INSIDE, BUSY, RETIRED, THREADS, COUNT, JOB, DATA, FAILED, NEXT = (LINE * k for k in range(10))
# from NEXT on, a word a run: its next item

YIELD = 1024  # looks
ALONE, LED = -1, -2  # roles; the others are numbers of threads

_WORD, _CODE = ir.IntType(64), ir.IntType(32)
_POINTER = ir.IntType(8).as_pointer()


def words(threads: int) -> int:
    """How many words a team of so many threads has."""
    return NEXT + LINE * threads


def _word(context, builder, signature, args):
    """The address of word args[1] of the array args[0]."""
    return builder.gep(cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0]).data, [args[1]])


def _atomic(operation: str):
    """The old value of ``team[k]``, which becomes that and `n` combined; all threads see all such operations in one order."""

    @intrinsic
    def combine(typing_context, team, k, n):
        def codegen(context, builder, signature, args):
            return builder.atomic_rmw(operation, _word(context, builder, signature, args), args[2], "seq_cst")

        return types.int64(team, types.intp, types.int64), codegen

    return combine


_add, _swap = _atomic("add"), _atomic("xchg")


@intrinsic
def _load(typing_context, team, k):
    """``team[k]`` as it is now."""

    def codegen(context, builder, signature, args):
        return builder.load_atomic(_word(context, builder, signature, args), "seq_cst", 8)

    return types.int64(team, types.intp), codegen


@intrinsic
def _relax(typing_context):
    """Let the processor know that this is a loop that waits."""

    def codegen(context, builder, signature, args):
        if X86:
            pause = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), []), "llvm.x86.sse2.pause")
            builder.call(pause, [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def offer(typing_context, team):
    """Leave in `team` where threads find the function this stands in, and its arguments.

    What they call is a function of its own that loads them and calls it; with a `count` of -1 - who instead of the one that was given.
    """

    def codegen(context, builder, signature, args):
        whole = builder.function
        given = whole.args[2:]  # before them where the result goes, and an exception: these every thread has for itself
        place = cgutils.alloca_once(builder, ir.LiteralStructType([arg.type for arg in given]))
        for k, arg in enumerate(given):
            builder.store(arg, builder.gep(place, [_CODE(0), _CODE(k)]))
        # as Numba's functions are called: (result, exception, ...) -> status
        kind = ir.FunctionType(_CODE, [_POINTER, _POINTER.as_pointer(), _WORD])
        entry = ir.Function(builder.module, kind, builder.module.get_unique_name("fastrnn_entry"))
        entry.linkage = "internal"
        inside = ir.IRBuilder(entry.append_basic_block())
        left = inside.bitcast(entry.args[0], place.type)
        own = [inside.load(inside.gep(left, [_CODE(0), _CODE(k)])) for k in range(len(given))]
        (count,) = (k for k, arg in enumerate(given) if arg.name == "arg.count")
        own[count] = inside.sub(_WORD(-1), entry.args[2])
        result, error = inside.alloca(whole.args[0].type.pointee), inside.bitcast(entry.args[1], whole.args[1].type)
        inside.ret(inside.call(whole, [result, error, *own]))
        for word, pointer in ((JOB, entry), (DATA, place)):
            builder.store(builder.ptrtoint(pointer, _WORD), _word(context, builder, signature, (args[0], _WORD(word))))
        return context.get_dummy_value()

    return types.void(team), codegen


@intrinsic
def _perform(typing_context, entry, place, who):
    """What `offer` left; the status that Numba's functions return, 0 where all went well."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(_CODE, [_POINTER, _POINTER.as_pointer(), _WORD])
        error = cgutils.alloca_once_value(builder, _POINTER(None))
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), [builder.inttoptr(args[1], _POINTER), error, args[2]])

    return types.int32(types.int64, types.int64, types.intp), codegen


@intrinsic
def _yield(typing_context):
    """Let another thread have this processor."""

    def codegen(context, builder, signature, args):
        if sys.platform != "win32":
            builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(_CODE, []), "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), codegen


@kernel
def serve(team, who, patience):
    """Help in every region of `team` as thread `who`, until none was opened for `patience` looks, or the team is retired: True then."""
    looks, last = 0, 0
    while looks < patience:
        if _load(team, RETIRED) == 1:
            return True
        turn = _load(team, TURN)
        if turn == last or turn % 2 == 0:
            looks += 1
            _relax()
            continue
        _add(team, INSIDE, 1)  # first, so that a caller who closes the region now either is seen here or sees this
        if _load(team, TURN) == turn and _perform(team[JOB], team[DATA], who) != 0:
            _swap(team, FAILED, 1)
        _add(team, INSIDE, -1)
        looks, last = 0, turn
    return False


@loop
def next_item(team, count, role, k, item):
    """(k, the next item), from the run of the k-th neighbour on; -1 where none is left. Begins with k = 0, item = -1."""
    if role == ALONE:
        return k, item + 1 if item + 1 < count else -1
    threads = team[THREADS]
    while k < threads:
        own = (role + k) % threads
        item = _add(team, NEXT + LINE * own, 1)
        if item < team[COUNT] * (own + 1) // threads:
            return k, item
        k += 1
    return k, -1


@loop
def lead(team, count):
    """One region, in which all do what `offer` left."""
    team[COUNT] = count
    for own in range(team[THREADS]):
        team[NEXT + LINE * own] = count * own // team[THREADS]
    team[FAILED] = 0
    _add(team, TURN, 1)
    failed = _perform(team[JOB], team[DATA], 0) != 0
    _add(team, TURN, 1)
    looks = 0
    while _load(team, INSIDE) != 0:
        looks += 1
        if looks % YIELD == 0:
            _yield()  # perhaps the helper waits for it
        _relax()
    failed = failed or team[FAILED] != 0
    _swap(team, BUSY, 0)
    if failed:
        raise RuntimeError("a kernel raised an exception in a region; with one thread it is shown")


def enter(team, count):
    """The role of who has just called: ALONE; LED, after a region in which all items were done; or the number of a thread that is led.

    It becomes part of the function that calls it, whose arguments include `team` and `count`.
    """
    return ALONE  # in the interpreter


@overload(enter, inline="always")
def _enter_overload(team, count):
    def enter(team, count):
        role = -1 - count
        if count >= 0:
            # busy: another thread of Python has a region
            role = ALONE if team[THREADS] == 1 or count < 2 or _swap(team, BUSY, 1) == 1 else LED
        if role == LED:
            offer(team)
            lead(team, count)
        return role

    return enter


@cache
def parallel(body):
    """A kernel ``run(team, count, *arguments)`` that calls ``body(who, item, *arguments)``, a loop, for every item < count.

    `who`, the number of the thread, says whose working memory to use; what is done for one item must not depend on it, nor on the others.
    """

    def run(team, count, *arguments):
        role = enter(team, count)
        if role == LED:
            return
        k, item = next_item(team, count, role, 0, -1)
        while item >= 0:
            body(max(role, 0), item, *arguments)
            k, item = next_item(team, count, role, k, item)

    run.__name__ = run.__qualname__ = body.__name__
    return kernel(run)
