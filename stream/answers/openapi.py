"""The description of the paths under /v1, as OpenAPI and as a page. The page loads nothing from elsewhere."""

from typing import Any

from stream.answers.asked import LARGEST_K, MOST_EXCLUDED
from stream.settings import RECENT_ITEMS
from stream.web.alerts import KEPT

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
ERRORS = {
    400: "A parameter or an id is wrong; `error` has the reason.",
    401: "The token is missing or wrong.",
    403: "The worker has no token, so it refuses every such request.",
    404: "There is no such user, item or path.",
    503: "Not now: the worker starts, partitions move, Kafka does not answer, or too many requests wait. "
    "Try again after the seconds in Retry-After.",
}


def _list_of(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def _object(fields: dict[str, Schema], optional: tuple[str, ...] = ()) -> Schema:
    required = [name for name in fields if name not in optional]
    return {"type": "object", "properties": fields, "required": required, "additionalProperties": False}


def _or_null(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


def _said(schema: Schema, text: str) -> Schema:
    return {**schema, "description": text}


CLICK: dict[str, Schema] = {
    "item_id": _said(_or_null(TEXT), "Null = the model does not know it."),
    "event_type": _said(_or_null(TEXT), "Null = the model does not know it."),
    "clicks_ago": _said(WHOLE, "0 = the user's last click."),
}
REASON = CLICK | {
    "nats": _said(NUMBER, "Without the click, the log probability of the recommended item is so much lower."),
}
JUDGED: dict[str, Schema] = {
    "timestamp": _said(_or_null(WHOLE), "ms; null = it came late, or before a pause of more than 24 days."),
    "event_type": CLICK["event_type"],
    "item_id": CLICK["item_id"],
    "p_value": _said(NUMBER, "How usual the item was by itself, 0 to 1. Small = surprising."),
}
EPISODE: dict[str, Schema] = {
    "id": _said(TEXT, "`episode` in its alerts."),
    "opened": _said(_or_null(WHOLE), "Time of its first click, ms; null = the first alert is not kept."),
    "updated": _said(WHOLE, "Time of its last unusual click that is known, ms."),
    "alerts": _said(WHOLE, "Alerts of it that the worker keeps."),
    "p_value": _said(NUMBER, "Of its latest alert."),
    "reason": _said(_or_null(TEXT), "Of its latest alert; null = the alert is not kept."),
}
FIGURES: Schema = {"type": "object"}
STATUS: dict[str, Schema] = {
    "time": _said(WHOLE, "Of the answer, ms since the epoch."),
    "ready": _said({"type": "boolean"}, "As /readyz."),
    "reason": _said(TEXT, "Why the worker is not ready."),
    "phase": _said(TEXT, "starting, joining, recovering, rebalancing, rejoining, assigned, spare or stopping."),
    "partitions": _said(WHOLE, "Number of partitions whose clicks the worker decides."),
    "kafka_answers": {"type": "boolean"},
    "cycle_s": _said(NUMBER, "For how long the running cycle takes already, s."),
    "worker": _said(_or_null(FIGURES), "version, model, provider, group and worker_id; null = it starts."),
    "answers": _said({"type": "boolean"}, "Whether --http-answers is on."),
    "clicks_per_s": _said(_or_null(NUMBER), "Decided clicks, in the last ten seconds."),
    "latency": _said(
        FIGURES,
        "From a message's Kafka timestamp to the commit of its decision: p50_ms and p99_ms, in the last ten seconds. "
        "On a backlog it is how old the messages are.",
    ),
    "stages": _said(FIGURES, "Stage of a transaction (docs/metrics.md) -> p50_ms and p99_ms of the last ten seconds."),
    "lag": _said(FIGURES, "Partition -> messages that are not decided yet."),
    "users": _said(WHOLE, "Users with a state in this worker."),
    "counts": _said(FIGURES, "Since the start, with the names of the metrics eddy_..._total."),
    "dead_letters": _said(FIGURES, "Reason -> messages since the start."),
    "hit_rate": _said(
        _or_null(NUMBER), "Share of the judged lists that have the user's next click of the same session."
    ),
    "lists_judged": _said(WHOLE, "Since the start; the lists of one user in 32 are judged."),
    "model": _said(
        _or_null(FIGURES),
        "label, network, items, event_types; trained: the log of the training; held_out: recall@20 and MRR@20 on its "
        "held-out clicks; report: whether there is a report. Null = the worker starts.",
    ),
}
SCHEMAS: dict[str, Schema] = {
    "Recommendations": _object(
        {
            "user_id": TEXT,
            "known": _said({"type": "boolean"}, "Whether the user has a state. If not, the list is a new user's."),
            "last_click": _said(_or_null(TEXT), "Id of the user's last click that counts: its decision has this list."),
            "timestamp": _said(_or_null(WHOLE), "Newest time of the user's clicks, ms since the epoch."),
            "items": _said(_list_of(TEXT), "Best first."),
            "log_probs": _said(_list_of(NUMBER), "Natural logarithm of each item's probability."),
            "model": _said(TEXT, "name/version"),
            "propensities": _said(_list_of(NUMBER), "Only with --explore."),
            "explored": _said(_list_of(WHOLE), "Only with --explore: the slots that it filled."),
            "because": _said(
                _list_of(_list_of(_object(REASON))),
                "Only if asked for: for each item the last clicks that it comes from, the strongest first.",
            ),
            "intent": _said(NUMBER, "Only with `because`, and if the model predicts it: as in the last decision."),
            "intent_because": _said(
                _list_of(_object(CLICK | {"without": _said(NUMBER, "The intent if the click had not been made.")})),
                "Beside `intent`: the session's last clicks that it comes from, the strongest first.",
            ),
        },
        ("propensities", "explored", "because", "intent", "intent_because"),
    ),
    "User": _object(
        {
            "user_id": TEXT,
            "clicks": _said(WHOLE, "Clicks since the user was new."),
            "last_click": _said(TEXT, "Id of the last click that counts."),
            "timestamp": _said(WHOLE, "Newest time of the user's clicks, ms since the epoch."),
            "last_items": _said(
                _list_of({"type": ["string", "null"]}), "Newest first; null = the model does not know it."
            ),
            "item_p_values": _said(
                _list_of(NUMBER),
                "Newest first: how usual the item of each click was by itself, 0 to 1. Small = surprising.",
            ),
            "last_clicks": _said(_list_of(_object(JUDGED)), "The clicks of `item_p_values`, oldest first."),
            "beliefs": _said(
                _list_of(_object({"item_id": TEXT, "probability": NUMBER})),
                "The most likely items of the next click, without any rule.",
            ),
            "episode": _said(
                {"oneOf": [_object({"id": TEXT, "timestamp": WHOLE}), {"type": "null"}]},
                "The last episode of unusual clicks, and the time of its last one.",
            ),
            "episodes": _said(
                _list_of(_object(EPISODE)),
                f"Newest first: those of the last {KEPT} alerts of the user's worker since it started, and `episode`.",
            ),
            "partition": _said(WHOLE, "Of the clicks topic."),
            "model": _said(TEXT, "name/version"),
            "next": _said(
                {"type": "object", "additionalProperties": NUMBER},
                "Only if the model predicts it: event type -> probability, as in the decision on the last click.",
            ),
            "leaves": _said(NUMBER, "Beside `next`."),
            "intent": _said(NUMBER, "Only if the model predicts it: as in the decision on the last click."),
            "returns_7d": _said(NUMBER, "Only if the model predicts it: as in the decision on the last click."),
        },
        ("next", "leaves", "intent", "returns_7d"),
    ),
    "Similar": _object(
        {
            "item_id": TEXT,
            "items": _said(_list_of(TEXT), "Most similar first."),
            "similarity": _said(_list_of(NUMBER), "Cosine, -1 to 1."),
            "model": _said(TEXT, "name/version"),
        }
    ),
    "Forgotten": _object(
        {"user_id": TEXT, "partitions": _said(WHOLE, "The request was written to so many partitions.")}
    ),
    "Anomalies": _object(
        {
            "anomalies": _said(
                _list_of({"type": "object"}),
                "Newest first: the messages on the topics of alerts, and `committed`, the time of the commit in ms.",
            ),
            "unanswered": _said(_list_of(TEXT), "Why other workers have not answered; empty if all have."),
        }
    ),
    "Workers": _object(
        {
            "workers": _list_of(
                _object(
                    {
                        "client_id": TEXT,
                        "this": _said({"type": "boolean"}, "The worker that answers."),
                        "partitions": _list_of(WHOLE),
                        "status": _said(
                            {"type": ["object", "null"]}, "As /v1/status of this worker; null = no answer."
                        ),
                        "error": _said(_or_null(TEXT), "Why there is no answer."),
                    }
                )
            )
        }
    ),
    "Status": _object(STATUS),
    "History": _said(
        {"type": "object", "properties": {}},
        "Figures of the last ten minutes, a list for each; and `hours`: the last hours of --behaviour-topic, or null.",
    ),
    "Error": _object({"error": TEXT}),
}

ALERTS = "The latest alerts of all workers. With Accept: text/event-stream those of this worker, as they come."


def _query(name: str, text: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "description": text, "schema": schema}


def _up_to(most: int) -> Schema:
    return {"type": "integer", "minimum": 1, "maximum": most}


K = _query("k", "Largest number of items; without it the worker's --k.", _up_to(LARGEST_K))
EXCLUDE = _query(
    "exclude",
    f"Item ids to leave out, separated by commas; at most {MOST_EXCLUDED}. It may be given repeatedly.",
    TEXT,
)
CATEGORY = _query("category", "Only items of this category of the workers' --catalogue.", TEXT)
BECAUSE = _query(
    "because",
    "For each item, name at most so many of the user's last clicks that it comes from.",
    _up_to(RECENT_ITEMS),
)
USER = _query("user", "Only alerts of this user, and none on many users.", TEXT)
LIMIT = _query("limit", "Largest number of alerts.", _up_to(KEPT))


def _path(
    whose: str, summary: str, status: int, schema: str, errors: tuple[int, ...], *parameters: dict[str, Any]
) -> dict[str, Any]:
    """One operation. whose: "user" or "item", which the path names; "" if it names none."""
    id_ = {"name": "id", "in": "path", "required": True, "description": f"The {whose}'s id.", "schema": TEXT}
    answers = {str(status): _response("The answer.", schema)}
    answers |= {str(code): _response(ERRORS[code], "Error") for code in errors}
    return {"summary": summary, "parameters": [*([id_] if whose else []), *parameters], "responses": answers}


def _response(text: str, schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": text, "content": content}


def description() -> dict[str, Any]:
    """The paths as an OpenAPI 3.1 document."""
    forget = _path("user", "Delete the state of a user.", 202, "Forgotten", (400, 401, 403, 503))
    state = _path("user", "What is known of a user.", 200, "User", (400, 404, 503), K)
    lists = _path("user", "The items to recommend to a user now.", 200, "Recommendations", (400, 503))
    similar = _path("item", "Items that are similar for the model.", 200, "Similar", (400, 404, 503), K)
    lists["parameters"] += [K, EXCLUDE, CATEGORY, BECAUSE]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Eddy", "version": "1", "description": "Requests to a worker of an online shop's stream."},
        "paths": {
            "/v1/users/{id}/recommendations": {"get": lists},
            "/v1/users/{id}": {"get": state, "delete": {**forget, "security": [{"token": []}]}},
            "/v1/items/{id}/similar": {"get": similar},
            "/v1/anomalies": {"get": _path("", ALERTS, 200, "Anomalies", (400, 503), USER, LIMIT)},
            "/v1/workers": {"get": _path("", "The workers and their partitions.", 200, "Workers", (400, 503))},
            "/v1/status": {"get": _path("", "The figures of this worker now.", 200, "Status", ())},
            "/v1/history": {"get": _path("", "The figures of this worker's last minutes.", 200, "History", ())},
        },
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def page() -> str:
    """The description as a page, for a person."""
    found = description()
    parts = []
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            given = "".join(f"<li><code>{p['name']}</code> {p['description']}</li>" for p in operation["parameters"])
            answers = "".join(
                f"<tr><td>{status}</td><td>{answer['description']}</td></tr>"
                for status, answer in operation["responses"].items()
            )
            title = f"<h2><code>{method.upper()} {path}</code></h2><p>{operation['summary']}</p>"
            parts.append(f"{title}<ul>{given}</ul><table>{answers}</table>{_fields(operation)}")
    style = "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}td{padding:0 1em 0 0}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Eddy</title><style>{style}</style><h1>Eddy</h1>'
        '<p>The same as <a href="/v1/openapi.json">OpenAPI</a>.</p>' + "".join(parts) + "</html>"
    )


def _fields(operation: dict[str, Any]) -> str:
    """The fields of the answer of an operation, as a table."""
    name = next(iter(operation["responses"].values()))["content"]["application/json"]["schema"]["$ref"]
    fields = SCHEMAS[name.rpartition("/")[2]]["properties"]
    rows = (
        f"<tr><td><code>{field}</code></td><td>{schema.get('description', '')}</td></tr>"
        for field, schema in fields.items()
    )
    return f"<table>{''.join(rows)}</table>"
