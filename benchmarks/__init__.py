"""Speed, as ratios against peers in the same run: one module a question, `python -m benchmarks` runs them.

    python -m benchmarks                     all questions; some twenty minutes
    python -m benchmarks fan_out lines       some
    python -m benchmarks --quick             smaller loads, fewer rounds: does it run, roughly how fast
    python -m benchmarks --json FILE         every single value too
    python -m benchmarks --write-docs        the table and the plots of docs/explanation/performance.md

Linux, root, openssh-server; peers from the dependency group ``bench``. Servers are real sshd on loopback. Every
contestant runs in a process of its own; contestants take turns, some rounds long, and a figure is the median of the
rounds with its spread. Ratios are made round by round. Not part of the tests: what is shown depends on the machine.
"""
