"""How fast fastrnn is beside other libraries, and beside what the machine can do: the measurement; nothing here draws or judges.

`cases` says what is computed and what it costs, `peers` how each library does it, `machine` what the processor could do at best.
`worker` runs one library in a process of its own; `rounds` runs the workers in turns and keeps what they found; `summary` puts a
round's libraries beside each other.
"""
