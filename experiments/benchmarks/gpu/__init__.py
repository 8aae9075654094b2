"""Is the project right on a GPU, and how fast is it there?

benchmark   runs the phases as processes, in order of importance and with limits of time
phase       the program of such a process
workload    what phases train
machine     the card and its ceilings: copying, and matrix products by number format
correctness losses as on the CPU, twice the same, what is frozen, resuming, steps that wait
loader      training against a DataLoader loop as a user would write it
throughput  images per second over sizes, batch sizes and number formats
profile     kernels of a step, the time to launch them, the share of the copy bandwidth
memory      memory over the trials of a process, and a trial that needs too much of it
epoch       what an epoch costs besides its steps; features, and heads on them
kill        lanes whose worker is killed while it trains
lanes       several lanes on one device
compile     what torch.compile gains, and what it costs
"""
