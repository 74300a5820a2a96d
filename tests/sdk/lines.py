"""Puts an SDK at a test's disposal: the settings are the first argument, a command is a line on standard input, and its answer
is a line of JSON on standard output, with the requests that the SDK sent meanwhile as Python's own HTTP client reported them."""

import json
import re
import socket
import sys

HOST = "api.weixin.qq.com"
HEAD = re.compile(rb"([A-Z]+) ([^ ?]*)\S* HTTP/1\.[01]\r\n")

settings = json.loads(sys.argv[1])
sent = []


def watch(event, arguments):
    # Every address of a test is a number: no SDK ever reaches the real WeChat.
    if event == "socket.getaddrinfo" and arguments[0] not in ("127.0.0.1", b"127.0.0.1"):
        raise ConnectionError(f"no test calls {arguments[0]}")
    if event == "http.client.send" and isinstance(arguments[1], bytes):
        head = HEAD.match(arguments[1])
        if head and head[1] != b"CONNECT":
            sent.append(b" ".join(head.groups()).decode())


def lead_host_to(address, port):
    """What a line in /etc/hosts and port 443 do, which a test must not touch."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host, *arguments, **names):
        if host == HOST:
            return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))]
        return resolve(host, *arguments, **names)

    socket.getaddrinfo = getaddrinfo


def serve(commands):
    sys.addaudithook(watch)
    for line in sys.stdin:
        sent.clear()
        try:
            answer = {"value": commands[line.strip()]()}
        except Exception as error:
            answer = {"error": repr(error)}
        print(json.dumps({**answer, "requests": sent}), flush=True)
