"""A receiver of jobrelay's callbacks with nothing but the standard library.

WEBHOOK_SECRETS='whsec_... whsec_...' LISTEN=127.0.0.1:8080 python3 receiver.py
"""

import base64
import binascii
import hashlib
import hmac
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOLERANCE = 5 * 60  # seconds between the timestamp and our clock
MAX_BODY = 1 << 20  # bytes


def parse_keys(secrets):
    """The keys that are in force, with spaces between. There must be one: with
    an empty key anybody could sign."""
    keys = []
    for secret in secrets.split():
        try:
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            key = b""
        if len(key) < 24:
            sys.exit("WEBHOOK_SECRETS holds something that is no key")
        keys.append(key)
    if not keys:
        sys.exit("WEBHOOK_SECRETS is empty; give it the keys of jobrelay's key file")
    return keys


def verified(keys, headers, body, now):
    """Tells a callback of jobrelay's from anybody else's."""
    webhook_id = headers.get("webhook-id", "")
    timestamp = headers.get("webhook-timestamp", "")
    if not webhook_id or not (timestamp.isascii() and timestamp.isdigit()):
        return False
    if abs(now - int(timestamp[:20])) > TOLERANCE:
        return False
    signed = f"{webhook_id}.{timestamp}.".encode("latin-1") + body
    wanted = [hmac.new(key, signed, hashlib.sha256).digest() for key in keys]
    for signature in headers.get("webhook-signature", "").split():
        version, _, encoded = signature.partition(",")
        try:
            given = base64.b64decode(encoded, validate=True)
        except ValueError:
            continue
        # compare_digest takes the same time wherever the two differ.
        if version == "v1" and any(hmac.compare_digest(given, w) for w in wanted):
            return True
    return False


class Store:
    """In memory here; in a database where it counts: the ids that were seen (a
    unique column, written with the work in one transaction), and how far each
    job is."""

    def __init__(self):
        self.lock = threading.Lock()
        self.seen = set()
        self.statuses = {}

    def take(self, webhook_id, job, status):
        """Takes a callback once. Callbacks come in order, 0, 1 and one of 2, 3
        and 99; one that was replayed may come late, and sets nothing back."""
        with self.lock:
            if webhook_id in self.seen:
                return
            self.seen.add(webhook_id)
            if job in self.statuses and min(status, 2) <= min(self.statuses[job], 2):
                print(job, status, "late", flush=True)
                return
            self.statuses[job] = status
            print(job, status, flush=True)


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections
    timeout = 90  # seconds without a word
    keys = parse_keys(os.environ.get("WEBHOOK_SECRETS", ""))
    store = Store()

    def do_POST(self):
        length = self.headers.get("content-length", "")
        if not length.isdecimal() or int(length) > MAX_BODY:
            self.close_connection = True
            return self.answer(413)
        body = self.rfile.read(int(length))
        if not verified(self.keys, self.headers, body, time.time()):
            return self.answer(401)
        try:
            callback = json.loads(body)
            job, status = callback["id"], callback["status"]
        except (ValueError, KeyError, TypeError):
            return self.answer(400)
        self.store.take(self.headers["webhook-id"], job, status)
        self.answer(204)

    def do_GET(self):
        self.answer(405)

    def answer(self, status):
        self.send_response(status)
        if status != 204:
            self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format, *args):
        """Says nothing of each call."""


if __name__ == "__main__":
    host, port = os.environ.get("LISTEN", "127.0.0.1:8080").split(":")
    ThreadingHTTPServer((host, int(port)), Receiver).serve_forever()
