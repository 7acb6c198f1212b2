"""Measure the plugin, from outside, in mount and PID namespaces of its own: `make bench`.

A run (run.py) goes through experiments (experiments.py).  Each gives one *box* (boxes.py) to each
subject: a machine with a root of its own (init.sh) in which a *stage* (stage.py) obeys line by
line.  On a stage there are datasets, pods and one *subject* (subjects.py): our plugin, the one to
compare with, or the bare system calls.  What happens to the mounts is seen by a process that knows
nothing of any plugin (watch.py).  The samples become numbers (numbers.py), rows with goals
(rows.py), a table and JSON (report.py).  docs/benchmarks.md says what is measured and how.
"""
