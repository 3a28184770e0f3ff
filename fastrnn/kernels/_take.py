"""Move the n values of one unit between an (n, H) array and a tuple; n is fixed when a kernel is built."""

from .._jit import pointwise


@pointwise
def take0(a, j):
    return ()


@pointwise
def take1(a, j):
    return (a[0, j],)


@pointwise
def take2(a, j):
    return a[0, j], a[1, j]


@pointwise
def take3(a, j):
    return a[0, j], a[1, j], a[2, j]


@pointwise
def take4(a, j):
    return a[0, j], a[1, j], a[2, j], a[3, j]


@pointwise
def take5(a, j):
    return a[0, j], a[1, j], a[2, j], a[3, j], a[4, j]


@pointwise
def take6(a, j):
    return a[0, j], a[1, j], a[2, j], a[3, j], a[4, j], a[5, j]


@pointwise
def take7(a, j):
    return a[0, j], a[1, j], a[2, j], a[3, j], a[4, j], a[5, j], a[6, j]


@pointwise
def take8(a, j):
    return a[0, j], a[1, j], a[2, j], a[3, j], a[4, j], a[5, j], a[6, j], a[7, j]


@pointwise
def put0(a, j, v):
    return


@pointwise
def put1(a, j, v):
    a[0, j] = v[0]


@pointwise
def put2(a, j, v):
    a[0, j], a[1, j] = v


@pointwise
def put3(a, j, v):
    a[0, j], a[1, j], a[2, j] = v


@pointwise
def put4(a, j, v):
    a[0, j], a[1, j], a[2, j], a[3, j] = v


@pointwise
def put5(a, j, v):
    a[0, j], a[1, j], a[2, j], a[3, j], a[4, j] = v


@pointwise
def put6(a, j, v):
    a[0, j], a[1, j], a[2, j], a[3, j], a[4, j], a[5, j] = v


@pointwise
def put7(a, j, v):
    a[0, j], a[1, j], a[2, j], a[3, j], a[4, j], a[5, j], a[6, j] = v


@pointwise
def put8(a, j, v):
    a[0, j], a[1, j], a[2, j], a[3, j], a[4, j], a[5, j], a[6, j], a[7, j] = v


TAKE = (take0, take1, take2, take3, take4, take5, take6, take7, take8)
PUT = (put0, put1, put2, put3, put4, put5, put6, put7, put8)
