"""One run, from its settings to its complete record.

experiment  trains one net and records it, however it ends: joins the packages below
resume      what a command with resume=… has to do; what differs if it cannot be done
batch_diagnostics  what diagnostics=batch measures after every batch
provenance  what is needed to repeat a run: config, command line, commit, packages
trust       what a stored config, which may come from a stranger, is allowed to name
interrupt   signals end a run at a safe point
"""
