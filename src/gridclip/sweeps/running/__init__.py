"""One runner at work: the loop of a sweep and what it stands on.

sweep is the loop; claims says what to run next, judging what an ended process means, process starts
and ends one; guard is the small program between a runner and a trial; leases tells which runners
are gone.
"""
