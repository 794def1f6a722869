"""The demonstration's website and client. They find the database by its public name, as an application does."""

import html
import json
import os
import ssl
import time
import urllib.parse

import boto3
import pg8000.native

HOST = os.environ["DATABASE_HOST"]
NAME = os.environ["DATABASE_NAME"]
USER = "application"
AUTHORITIES = "/opt/rds/global-bundle.pem"
TABLE = "CREATE TABLE IF NOT EXISTS demo_orders (id bigserial PRIMARY KEY, item text NOT NULL, region text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp())"
RUN_S = 55
PAUSE_S = 1.0


def canonical(name):
    """The cluster's own name: tokens are made for it, and its certificate bears it."""
    import socket

    return socket.gethostbyname_ex(name)[0]


def region_of(endpoint):
    return endpoint.split(".")[2]


def connect():
    endpoint = canonical(HOST)
    client = boto3.client("rds", region_name=region_of(endpoint))
    token = client.generate_db_auth_token(DBHostname=endpoint, Port=5432, DBUsername=USER)
    context = ssl.create_default_context(cafile=AUTHORITIES)
    connection = pg8000.native.Connection(
        USER, host=endpoint, database=NAME, password=token, ssl_context=context, timeout=3
    )
    return connection, region_of(endpoint)


def client(event, context):
    """Writes an order each second, and prints what came of it as metrics for CloudWatch."""
    began = time.monotonic()
    acknowledged, failed, longest, last = 0, 0, 0.0, began
    connection = None
    while time.monotonic() - began < RUN_S:
        try:
            if connection is None:
                connection, region = connect()
                connection.run(TABLE)
            connection.run("INSERT INTO demo_orders (item, region) VALUES ('socks', :region)", region=region)
            now = time.monotonic()
            longest, last = max(longest, now - last), now
            acknowledged += 1
        except Exception as error:  # whatever it is, an application tries again
            failed += 1
            connection = None
            print(json.dumps({"failed": type(error).__name__, "detail": str(error)[:200]}))
        time.sleep(PAUSE_S)
    longest = max(longest, time.monotonic() - last)
    metrics = [{"Name": "acknowledged"}, {"Name": "failed"}, {"Name": "longest_gap", "Unit": "Seconds"}]
    print(
        json.dumps(
            {
                "_aws": {
                    "Timestamp": int(time.time() * 1000),
                    "CloudWatchMetrics": [{"Namespace": "aurora-failover-demo", "Dimensions": [[]], "Metrics": metrics}],
                },
                "acknowledged": acknowledged,
                "failed": failed,
                "longest_gap": longest,
            }
        )
    )
    return {"acknowledged": acknowledged, "failed": failed, "longest-gap-s": round(longest, 3)}


def website(event, context):
    """Answers a load balancer: the newest orders, and a form for another one."""
    try:
        connection, region = connect()
        try:
            connection.run(TABLE)
            if event.get("httpMethod") == "POST":
                form = urllib.parse.parse_qs(event.get("body") or "")
                item = (form.get("item") or ["socks"])[0][:60]
                connection.run("INSERT INTO demo_orders (item, region) VALUES (:item, :region)", item=item, region=region)
            rows = connection.run("SELECT id, item, region, at FROM demo_orders ORDER BY id DESC LIMIT 20")
        finally:
            connection.close()
    except Exception as error:
        print(json.dumps({"failed": type(error).__name__, "detail": str(error)[:200]}))
        return page(503, "<p>No orders now. Please try again in a moment.</p>")
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    form = '<form method="post"><input name="item" maxlength="60" required><button>Order</button></form>'
    return page(200, f"<p>The writer is in {html.escape(region)}.</p>{form}<table>{lines}</table>")


def page(status, body):
    return {
        "statusCode": status,
        "statusDescription": f"{status} {'OK' if status == 200 else 'Service Unavailable'}",
        "isBase64Encoded": False,
        "headers": {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": "default-src 'none'; form-action 'self'",
            "Cache-Control": "no-store",
        },
        "body": f"<!doctype html><html lang=\"en\"><title>Orders</title><h1>Orders</h1>{body}</html>",
    }
