"""What each part of exporter/ may import. docs/architecture.md shows the same tables to readers."""

# The modules that lie in exporter/ itself and import nothing above them, in their order.
FOUNDATION = (
    "model",
    "errors",
    "clock",
    "units",
    "times",
    "localtime",
    "wording",
    "invisible",
    "text_layers",
    "redact",
    "log_writer",
    "logs",
    "console",
    "signals",
    "views",
    "storage",
    "httpd",
)
# What each package may import; `foundation` is all of FOUNDATION. The simulated API must not share the exporter's
# mistakes, so it shares the words, the HTTP server, and how to end.
MAY_IMPORT = {
    "simulator": {"model", "errors", "httpd", "signals"},
    "config": {"foundation"},
    "planning": {"foundation", "config"},
    "counting": {"foundation", "config", "planning"},
    "api": {"foundation", "config"},
    "drops": {"foundation", "config"},
    "polling": {"foundation", "config", "planning", "counting", "api", "drops"},
    "serving": {"foundation", "api"},
    "backfill": {"foundation", "config", "counting", "api", "serving"},
    "backtest": {"foundation", "config", "counting", "api", "drops"},
    "assembly": {"foundation", "config", "counting", "api", "drops", "polling", "serving"},
    "process_health": {"foundation", "assembly", "polling", "serving"},
    "daemon": {"foundation", "config", "planning", "polling", "serving", "assembly", "process_health"},
    "demo": {"config", "simulator"},
    "flags": {"foundation"},
    "cli": {
        *("foundation", "config", "planning", "counting", "backfill", "backtest", "simulator"),
        *("daemon", "demo", "flags"),
    },
    "__main__": {"cli"},
}
# Of another package, only these modules.
ONLY = {
    ("serving", "api"): {"exporter.api.request_log"},
    ("backfill", "serving"): {"exporter.serving.families"},
}
