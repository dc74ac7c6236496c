"""The imports that each part of exporter/ may have. docs/architecture.md has the same tables for readers."""

# The modules directly in exporter/ that import nothing above them, in their order.
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
    "garbage",
    "console",
    "signals",
    "views",
    "storage",
    "httpd",
)
# The imports that each package may have; `foundation` is all of FOUNDATION. The simulated API must not share the
# exporter's mistakes, so it shares only the model, the errors, the HTTP server and the signals.
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
    "checking": {"foundation", "config", "api"},
    "assembly": {"foundation", "config", "counting", "api", "drops", "polling", "serving", "merchant_views"},
    "merchant_views": {"foundation", "api", "drops", "polling"},
    "process_health": {"foundation", "assembly", "polling", "serving"},
    "web": {"foundation", "config", "serving"},
    "in_force": {"foundation", "config", "planning", "polling", "assembly", "web"},
    "media_errors": {"foundation", "serving"},
    "reload": {"foundation", "config", "media_errors"},
    "app": {"foundation", "config", "polling", "serving", "assembly", "process_health", "reload"},
    "daemon": {
        *("foundation", "config", "polling", "serving", "app", "assembly", "process_health", "in_force", "reload"),
        "web",
    },
    "demo": {"config", "simulator"},
    "flags": {"foundation", "serving"},
    "commandline": set(),
    "cli": {
        *("foundation", "config", "planning", "counting", "serving", "backfill", "backtest", "checking", "simulator"),
        *("web", "daemon", "demo", "flags", "commandline"),
    },
    "__main__": {"cli"},
}
# Of these packages, only these modules may be imported.
ONLY = {
    ("serving", "api"): {"exporter.api.request_log"},
    ("backfill", "serving"): {"exporter.serving.families"},
    ("web", "serving"): {"exporter.serving.paths"},
    ("flags", "serving"): {"exporter.serving.paths"},
    ("cli", "serving"): {"exporter.serving.paths"},
    ("media_errors", "serving"): {"exporter.serving.health"},
}
