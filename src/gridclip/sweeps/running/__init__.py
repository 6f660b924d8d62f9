"""One runner at work: the loop of a sweep and what it stands on.

runner is the loop; claims says what to run next, what the end of a process means and, by their
heartbeats, which runners are gone; process starts and ends a trial; guard is the small program
between a runner and a trial.
"""
