"""A headless Chromium, driven over the pipe of its developer tools, with nothing but the standard library."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

#: Where the browser is, or None.
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions")
_FLAGS += ("--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe")


class Browser:
    """One browser with one page; use as a context manager."""

    def __init__(self, patience: float = 60):
        self._patience, self._number, self._rest = patience, 0, b""
        self._events: list[dict] = []
        self.page: Path | None = None

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="stresslev-browser-", ignore_cleanup_errors=True)
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # the browser reads commands from descriptor 3 and writes answers to 4
        call = f'exec 3<&{theirs_in} 4>&{theirs_out}; exec "$@"'
        command = ["bash", "-c", call, "bash", CHROMIUM, *_FLAGS, f"--user-data-dir={self._folder.name}", "about:blank"]
        self._process = subprocess.Popen(command, pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        self._session = None
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(t["targetId"] for t in targets if t["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM", "Accessibility"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_):
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._out)
        os.close(self._in)
        self._folder.cleanup()

    def _read(self, until: float) -> dict:
        while b"\0" not in self._rest:
            if not select.select([self._in], [], [], max(until - time.monotonic(), 0))[0]:
                raise TimeoutError("the browser does not answer")
            part = os.read(self._in, 1 << 20)
            if not part:
                raise RuntimeError("the browser has ended")
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def call(self, method: str, **parameters) -> dict:
        """A command of the developer tools and its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        sent = json.dumps(message).encode() + b"\0"
        while sent:
            sent = sent[os.write(self._out, sent) :]
        until = time.monotonic() + self._patience
        while (answer := self._read(until)).get("id") != self._number:
            self._events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, file: Path, width: int = 1280, height: int = 900) -> None:
        """Load a file at a width in pixels and wait until its scripts have run."""
        self._events.clear()
        self.page = file
        self.resize(width, height)
        self.call("Page.navigate", url=file.resolve().as_uri())
        until = time.monotonic() + self._patience
        while not any(e.get("method") == "Page.loadEventFired" for e in self._events):
            self._events.append(self._read(until))
        self._drawn()

    def resize(self, width: int, height: int = 900) -> None:
        """Give the window another size, and the page the time to follow."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self._drawn()

    def _drawn(self) -> None:
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def run(self, expression: str):
        """The value of a JavaScript expression; promises are awaited."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True)
        if "exceptionDetails" in found:
            raise RuntimeError(json.dumps(found["exceptionDetails"])[:800])
        return found["result"].get("value")

    @property
    def complaints(self) -> list[str]:
        """Errors and warnings of the console, exceptions and what was refused, since the page was opened."""
        said = []
        for event in self._events:
            method, told = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                said.append(json.dumps(told["exceptionDetails"])[:500])
            elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
                said.append(json.dumps(told["args"])[:500])
            elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
                said.append(told["entry"]["text"])
        return said

    def press(self, key: str, code: int, text: str = "", modifiers: int = 0) -> None:
        """A key, down and up."""
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def picture(self, file: Path, clip: tuple[float, float, float, float] | None = None) -> None:
        """A PNG of the whole page, or of a part: x, y, width, height."""
        more = {}
        if clip is None:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            clip = (0, 0, size["width"], size["height"])
        more = {"clip": dict(zip(("x", "y", "width", "height"), clip, strict=True)) | {"scale": 1}, "captureBeyondViewport": True}
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png", **more)["data"]))

    def printed(self) -> bytes:
        """The page as PDF, on the paper that its style asks for."""
        return base64.b64decode(
            self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=False, generateTaggedPDF=True, generateDocumentOutline=True)["data"]
        )
