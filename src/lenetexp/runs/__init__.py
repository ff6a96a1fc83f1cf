"""One run, from its settings to its complete record.

experiment  trains one net and records it: joins the packages below
record      opening a run's record, and closing it however the run ends
resume      what a command with resume=… has to do; what differs if it cannot be done
provenance  what is needed to repeat a run: config, command line, commit, packages
trust       what a stored config, which may come from a stranger, is allowed to name
interrupt   signals end a run at a safe point
"""
