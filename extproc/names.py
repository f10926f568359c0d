"""Names on the wire that we own: headers, metadata, internal markers. Each stands here once."""

CLUSTER = "x-extproc-cluster"              # decision -> route match; never from a client
RETRY = "x-extproc-retry"                  # attempt -> Envoy's retriable_headers: try the next backend
STAGE = "x-extproc-stage"                  # gRPC initial metadata: request | attempt
JWT = "x-extproc-jwt"                      # Envoy's token check -> request stage: the payload; never from a client
METADATA = "extproc"                       # dynamic metadata namespace, one string field
METADATA_FIELD = "decision"
TARGET_FIELD = "target"                    # endpoint metadata of a leaf cluster

LATENCY, COST, ROUTE = "x-extproc-latency", "x-extproc-cost", "x-extproc-route"
SHADOW = "x-extproc-shadow"                # the request id that this one is a copy of

REQUEST_ID, REASON, BACKEND = "x-extproc-request-id", "x-extproc-reason", "x-extproc-backend"
MODEL, ATTEMPTS, COST_USD, WARNINGS = ("x-extproc-model", "x-extproc-attempts", "x-extproc-cost-usd",
                                       "x-extproc-warnings")

BUDGET_REMAINING, BUDGET_WARNING = "x-extproc-budget-remaining-usd", "x-extproc-budget-warning"

MAX_RETRIES = "x-envoy-max-retries"        # Envoy router headers, set by the request stage only
PER_TRY_TIMEOUT = "x-envoy-upstream-rq-per-try-timeout-ms"
