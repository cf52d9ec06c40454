#!/usr/bin/env python3
"""A page that takes a while: 40 pictures, each sent in pieces during a second, and a script that counts them, and asks
again for those that are broken.

    site.py PORT
"""

import http.server
import struct
import sys
import time
import zlib

PICTURES, SECONDS = 40, 6

PAGE = f"""<!doctype html><title>intranet</title><p id=verdict>loading</p><script>
let whole = 0, again = 0
const began = performance.now()
for (let i = 0; i < {PICTURES}; i++) {{
    const picture = new Image()
    picture.onload = () => {{ whole++; say() }}
    picture.onerror = () => {{ again++; picture.src = "/picture" + i + ".png?" + again; say() }}
    picture.src = "/picture" + i + ".png"
    document.body.append(picture)
}}
function say() {{
    document.getElementById("verdict").textContent = whole + " pictures are whole, " + again + " were asked for again"
}}
</script>"""


def png(width=300):
    """A picture that cannot be made much smaller, so that it takes its bytes."""
    state, rows = 1, bytearray()
    for _ in range(width):
        rows.append(0)
        for _ in range(width * 3):
            state = state * 1103515245 + 12345 & 0x7FFFFFFF
            rows.append(state >> 16 & 255)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, width, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(bytes(rows))) + chunk(b"IEND", b""))


PICTURE = png()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path.startswith("/picture"):
            self.answer("image/png", PICTURE, SECONDS / 6)
        else:
            self.answer("text/html", PAGE.encode(), 0)

    def answer(self, kind, data, seconds):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        for at in range(0, len(data), 16384):
            self.wfile.write(data[at:at + 16384])
            time.sleep(seconds / (len(data) // 16384 + 1))

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
