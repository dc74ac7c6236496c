"""A simulated SmartSTREAM API: for the demo, for trying dashboards and alerts, and for tests.

The parts, each importing only from those before it:

    catalog     the media of a merchant
    arithmetic  counts drawn, dealt out, and put together
    series      `World`: the final value of every minute
    faults      `Faults` and the `FaultSwitch`
    rows        what of a world is visible when
    forms       the forms of an answer
    gate        rate limit, tokens, credentials
    journal     the record of the requests
    query, reply, content, endpoints, control
    app         the application
    server      HTTP
    command     the command line
"""
