"""The same experiment on Ray, on one machine or many. Only this folder and diagnostics/ import Ray.

How one epoch travels, and in which files:

    open_lanes         joins or starts Ray, and imports the rest meanwhile
    tune_runner        starts the coordinator, the lane pool and Tune
    tune_scheduler     Tune's ASHA: decides at a rung which trial stops

    tune_trial               coordinator                  lanes
    a process of Tune        an actor                     workers of Ray Train
    submit(trial)  ------->  queue             ------->   next_trial()
    next_report()  <-------  reports of a key  <-------   report_epoch(epoch)
    acknowledge(), stop_trial(reason)  ----->  decisions  ----->  ... returns why to stop, or None

    coordinator_client how every process calls the coordinator
    lane_worker        a worker of a lane: trains one trial after another
    lane_pool          starts lanes while trials wait and devices are free, and replaces lost ones
    heartbeat          what happens regularly meanwhile: lanes, Tune's search, tables
    devices            how many workers there can be, and how many there is room for
    ray_session        settings of Ray; joins a cluster or starts Ray here; notices its loss
    ray_private        parts of Ray that may change without notice
"""
