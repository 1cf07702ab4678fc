"""A client that knows only Zenoh and JSON, and nothing of ironbus.

    python3 client.py ENDPOINT PATTERN

Subscribes to PATTERN and prints each sample as a line of JSON: {"heard": key, "encoding": …, "text": payload}.
Each line of its input is a selector that it queries for; it prints each answer as {"answer": key, …}, a refusal as
{"refused": text}, and then {"answered": selector}. It ends with its input.
"""

import json
import sys
import threading

import zenoh

printing = threading.Lock()


def tell(**line):
    with printing:
        print(json.dumps(line), flush=True)


def sample_as(what, sample):
    tell(**{what: str(sample.key_expr), "encoding": str(sample.encoding), "text": sample.payload.to_string()})


def main(endpoint, pattern):
    config = zenoh.Config()
    config.insert_json5("mode", '"client"')
    config.insert_json5("connect/endpoints", json.dumps([endpoint]))
    config.insert_json5("scouting/multicast/enabled", "false")
    with zenoh.open(config) as session:
        subscriber = session.declare_subscriber(pattern, lambda sample: sample_as("heard", sample))
        tell(subscribed=pattern)
        for selector in map(str.strip, sys.stdin):
            # Without consolidation answers come as they are sent: in the order of the log.
            for reply in session.get(selector, consolidation=zenoh.ConsolidationMode.NONE):
                if reply.ok is not None:
                    sample_as("answer", reply.ok)
                else:
                    tell(refused=reply.err.payload.to_string())
            tell(answered=selector)
        subscriber.undeclare()


if __name__ == "__main__":
    main(*sys.argv[1:])
