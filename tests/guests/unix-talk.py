#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Connect to a unix socket as soon as it listens, send TEXT, print what comes."""
import socket
import sys
import time

path, text = sys.argv[1:3]
end = socket.socket(socket.AF_UNIX)
for attempt in range(600):
    try:
        end.connect(path)
        break
    except (FileNotFoundError, ConnectionRefusedError):
        time.sleep(0.1)
end.sendall(text.encode())
while True:
    try:
        data = end.recv(4096)
    except ConnectionResetError:
        break
    if not data:
        break
    sys.stdout.buffer.write(data)
    sys.stdout.flush()
