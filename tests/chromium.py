"""Headless Chromium by its own protocol (Chrome DevTools Protocol) over two pipes: no driver, no port.

https://chromedevtools.github.io/devtools-protocol: with ``--remote-debugging-pipe`` the browser reads
commands from descriptor 3 and writes answers and events to descriptor 4, each JSON and a zero byte.
"""

import base64
import contextlib
import fcntl
import io
import json
import os
import select
import shutil
import subprocess

from PIL import Image

PATH = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
]
PATIENCE = 120
"""Seconds without a word after which the browser counts as hung."""


@contextlib.contextmanager
def browsing(profile):
    """A tab of a fresh browser, as a function ``call(method, **parameters)`` and the list of its events."""
    pipes = [os.pipe(), os.pipe()]
    (theirs_in, ours_out), (ours_in, theirs_out) = pipes
    # Far from 3 and 4, so that the shell cannot overwrite one with the other.
    passed = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in (theirs_in, theirs_out)]
    script = f'exec "$0" "$@" 3<&{passed[0]} 4>&{passed[1]}'
    command = [PATH, *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    browser = subprocess.Popen(["bash", "-c", script, *command], pass_fds=passed, **quiet)
    for fd in (theirs_in, theirs_out, *passed):
        os.close(fd)
    events, rest = [], b""

    def receive():
        nonlocal rest
        while b"\0" not in rest:
            ready, _, _ = select.select([ours_in], [], [], PATIENCE)
            piece = os.read(ours_in, 1 << 20) if ready else b""
            assert piece, "the browser has ended or says nothing"
            rest += piece
        message, _, rest = rest.partition(b"\0")
        return json.loads(message)

    def wait(wanted):
        while True:
            message = receive()
            if "method" in message:
                events.append(message)
            if wanted(message):
                return message

    session, count = {}, 0

    def call(method, until=None, **parameters):
        """Send a command; its result, once an event called ``until`` has come after it."""
        nonlocal count
        count += 1
        number, since = count, len(events)
        message = {"id": number, "method": method, "params": parameters, **session}
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(ours_out, data) :]
        answer = wait(lambda message: message.get("id") == number)
        assert "error" not in answer, f"{method}: {answer}"
        if until and not any(event["method"] == until for event in events[since:]):
            wait(lambda message: message.get("method") == until)
        return answer["result"]

    try:
        target = call("Target.createTarget", url="about:blank")["targetId"]
        session["sessionId"] = call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            call(f"{domain}.enable")
        yield call, events
    finally:
        os.close(ours_out)  # it ends when nobody can command it any more
        try:
            browser.wait(20)
        except subprocess.TimeoutExpired:
            browser.kill()
            browser.wait()
        os.close(ours_in)


def open_page(call, path, width, height=900, scheme="light"):
    """Show a file at a width, for people who like light or dark."""
    call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
    call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    call("Page.navigate", until="Page.loadEventFired", url=path.as_uri())


def evaluate(call, expression):
    """What a JavaScript expression gives in the page."""
    found = call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
    assert "exceptionDetails" not in found, found
    return found["result"].get("value")


def press(call, key, code):
    """Press and release a key, as a person does."""
    text = {"text": "\r"} if key == "Enter" else {}
    for kind in ("keyDown", "keyUp"):
        call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)


def screenshot(call, **clip):
    """What is in the window, or in ``clip`` (x, y, width, height), as an image."""
    options = {"clip": {"scale": 1, **clip}, "captureBeyondViewport": True} if clip else {}
    data = call("Page.captureScreenshot", format="png", **options)["data"]
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
